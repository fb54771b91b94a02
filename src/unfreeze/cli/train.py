"""``unfreeze train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unfreeze.cli.options import (
    DATA_HELP,
    FINE,
    MEASURE,
    MODEL,
    THAW,
    Augment,
    BatchSize,
    Device,
    GroupColumn,
    Head,
    ImageColumn,
    ImageSize,
    JsonOutput,
    LabelColumn,
    MaxLength,
    Precision,
    Recipe,
    Store,
    StratifyColumn,
    Test,
    TextColumn,
    TrainSize,
    Val,
    share_or_data,
)


def train(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    output_dir: Annotated[
        str | None, typer.Option(help="The run folder to make, or its URL. (default: runs/NAME)")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A name from `unfreeze backbones`, timm:NAME@FILE, hf-hub:ID, a Hugging Face id or folder, or the "
            "folder of a run, whose trained network is gone on with."
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="What to thaw: feature-extraction, partial, gradual, discriminative, full, lora, adapters, "
            "contrastive (few texts) or scratch; auto tries before it chooses. (default: auto)"
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(help="For trials and training of --strategy auto, such as 90s or 1h. (default: 10m)"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the split and every order. (default: 0)")] = None,
    json_output: JsonOutput = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with settings; flags win over it. A run's config.yaml works."),
    ] = None,
    head: Head = None,
    image_size: ImageSize = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help="squash, crop or pad images to the square. (default: squash)", rich_help_panel=MODEL
        ),
    ] = None,
    max_length: MaxLength = None,
    truncation: Annotated[
        str | None,
        typer.Option(
            help="What is kept of longer texts: head, or head+tail, half of each. (default: head)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="native, mean, cls or last, for texts. (default: the model's own)", rich_help_panel=MODEL
        ),
    ] = None,
    recipe: Recipe = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the plan, of all its phases together. (default: by strategy and rows)",
            rich_help_panel=THAW,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak rate of the backbone (the head's is up to ten times that; gradual's earlier phases take two and "
            "three times that) or of a graft. (default: by family)",
            rich_help_panel=THAW,
        ),
    ] = None,
    freeze: Annotated[
        int | None,
        typer.Option(
            help="Stages kept frozen, counted from the input (partial). (default: of a transformer the embedding and "
            "2/3 of the blocks; of a ResNet, ConvNeXt or Swin all but the last; of other CNNs 2/3)",
            rich_help_panel=THAW,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="Rank of the low-rank updates (lora). (default: 8)", rich_help_panel=THAW),
    ] = None,
    reduction: Annotated[
        int | None,
        typer.Option(
            help="How much narrower than its block an adapter is (adapters). (default: 16)",
            rich_help_panel=THAW,
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            help="Rate of a stage over that of the stage above (discriminative). (default: 0.7 to 0.85, by family)",
            rich_help_panel=THAW,
        ),
    ] = None,
    bn: Annotated[
        str | None,
        typer.Option(
            help="freeze or train the normalisation statistics. (default: freeze; scratch: train)",
            rich_help_panel=THAW,
        ),
    ] = None,
    augment: Augment = None,
    views: Annotated[
        int | None,
        typer.Option(
            help="Augmented views kept for each image when a frozen prefix is stored. (default: 8)",
            rich_help_panel=FINE,
        ),
    ] = None,
    pull_to_start: Annotated[
        float | None,
        typer.Option(help="Strength of the L2 pull to the first weights. (default: 0)", rich_help_panel=FINE),
    ] = None,
    store_budget: Annotated[
        str | None,
        typer.Option(help="Most that stored activations may take. (default: 8GB)", rich_help_panel=FINE),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option("--resume", help="Continue the stopped run in --output-dir.", rich_help_panel=THAW),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="cosine, linear or constant rates after the warm-up. (default: cosine)", rich_help_panel=FINE
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a better validation log-loss before a phase ends. (default: by strategy)",
            rich_help_panel=FINE,
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            help="Share of each label that is spread evenly over all classes. (default: 0)",
            rich_help_panel=FINE,
        ),
    ] = None,
    mixup: Annotated[
        float | None,
        typer.Option(
            help="Strength (Beta parameter) of mixing pairs of images, or of what frozen stages make of them; "
            "0 is off. (default: 0)",
            rich_help_panel=FINE,
        ),
    ] = None,
    token_dropout: Annotated[
        float | None,
        typer.Option(
            help="Share of the words of a text left out at random. (default: 0)", rich_help_panel=FINE
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Decay a step of the averaged weights; 0 is off. (default: 0.99 for images, 0 for texts)",
            rich_help_panel=FINE,
        ),
    ] = None,
    interpolate: Annotated[
        bool | None,
        typer.Option(
            "--interpolate/--no-interpolate",
            help="Mix start and trained weights as validation likes best. (default: no)",
            rich_help_panel=FINE,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Weight of the updates, over the rank (lora). (default: the rank)", rich_help_panel=FINE
        ),
    ] = None,
    lora_dropout: Annotated[
        float | None,
        typer.Option(help="Dropout before the updates (lora). (default: 0)", rich_help_panel=FINE),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="attention, linear, or patterns such as qkv,mlp.fc1: the layers updated (lora). (default: linear)",
            rich_help_panel=FINE,
        ),
    ] = None,
    lora_blocks: Annotated[
        int | None,
        typer.Option(
            help="Update the top N blocks alone; those below are computed once (lora). (default: all)",
            rich_help_panel=FINE,
        ),
    ] = None,
    text_column: TextColumn = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    stratify_column: StratifyColumn = None,
    val: Val = None,
    test: Test = None,
    train_size: TrainSize = None,
    precision_target: Annotated[
        float | None,
        typer.Option(
            help="Share of answers that must be right; less certain ones abstain. (default: 0.95)",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    batch_size: BatchSize = None,
    store: Store = None,
    device: Device = None,
    precision: Precision = None,
    devices: Annotated[
        int | None,
        typer.Option(
            help="GPUs of this machine that train together; several machines: docs/devices.md. (default: 1)",
            rich_help_panel=FINE,
        ),
    ] = None,
    examples: Annotated[
        bool | None,
        typer.Option(
            "--examples/--no-examples",
            help="Keep up to 500 training rows, made small, in the run, to show beside answers. (default: yes)",
            rich_help_panel=MODEL,
        ),
    ] = None,
    keep_both: Annotated[
        bool | None,
        typer.Option(
            "--keep-both/--no-keep-both",
            help="Keep the best or the last weights, whichever was not taken, as a run in RUN/best or RUN/last. "
            "(default: yes)",
            rich_help_panel=MODEL,
        ),
    ] = None,
) -> None:
    """Train a classifier on DATA, measure it honestly, and leave a run folder that predicts.

    Examples: [bold]unfreeze train photos/[/bold]; [bold]unfreeze train mails.parquet --label-column label[/bold]
    """
    from unfreeze.cli.console import TerminalProgress, make_console, print_json
    from unfreeze.config import TrainRequest, read_config
    from unfreeze.engine.launching import check_devices, gathered, is_joined, launch
    from unfreeze.progress import Silent

    request = TrainRequest(
        data=data,
        output_dir=output_dir,
        backbone=backbone,
        strategy=strategy,
        recipe=recipe,
        head=head,
        batch_size=batch_size,
        image_size=image_size,
        fit=fit,
        max_length=max_length,
        truncation=truncation,
        pooling=pooling,
        store=store,
        val=share_or_data(val),
        test=share_or_data(test),
        train_size=train_size,
        text_column=text_column,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        stratify_column=stratify_column,
        precision_target=precision_target,
        epochs=epochs,
        lr=lr,
        freeze=freeze,
        layer_decay=layer_decay,
        bn=bn,
        augment=augment,
        views=views,
        pull_to_start=pull_to_start,
        schedule=schedule,
        patience=patience,
        label_smoothing=label_smoothing,
        mixup=mixup,
        token_dropout=token_dropout,
        ema=ema,
        interpolate=interpolate,
        rank=rank,
        alpha=alpha,
        lora_dropout=lora_dropout,
        targets=targets,
        lora_blocks=lora_blocks,
        reduction=reduction,
        store_budget=store_budget,
        time_limit=time_limit,
        resume=resume,
        seed=seed,
        device=device,
        precision=precision,
        examples=examples,
        keep_both=keep_both,
    )
    if config is not None:
        request = request.filled_from(read_config(config), source=f"--config {config}")
    if devices is not None and not is_joined():
        request.check()
        check_devices(devices, request.device)
        if devices > 1:
            raise typer.Exit(launch(devices, sys.argv[1:]))
    from unfreeze.run import train as run_train
    from unfreeze.training.together import follow, leading

    command = shlex.join(["unfreeze", *sys.argv[1:]])
    progress = Silent() if json_output else TerminalProgress()
    with gathered(request.device or "auto") as ranks:
        if not ranks.leads:
            follow(request, ranks)
            return
        with leading(ranks):
            run = run_train(request, command=command, progress=progress, ranks=ranks)
    if json_output:
        print_json(run.to_dict())
    else:
        run.print(make_console())
