"""Thawing: from features and a strategy's plan to a fine-tuned classifier."""

from __future__ import annotations

import copy
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones import rehash
from unfreeze.bundle.classifier import Adapter, Base, Classifier
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.bundle.loading import lasting_source
from unfreeze.choose.settings import Decisions
from unfreeze.config import bytes_of
from unfreeze.contracts import Backbone, Executor
from unfreeze.data.chance import keys_of
from unfreeze.data.dataset import Dataset
from unfreeze.data.reading import content_hashes, read_images, read_texts
from unfreeze.engine.frozen_pass import Features
from unfreeze.engine.store import cache_root
from unfreeze.engine.threads import reading_threads
from unfreeze.errors import RequestError
from unfreeze.executors import build_executor
from unfreeze.grafts import attach, pack, settle
from unfreeze.heads.head import Head
from unfreeze.plan import Plan
from unfreeze.progress import Progress
from unfreeze.runtime.decode import Quarantined
from unfreeze.runtime.files import write_atomically
from unfreeze.runtime.preprocess import ImagePreprocess, TextPreprocess
from unfreeze.training.probing import Fitted, calibrate, exact_executor, score_rows
from unfreeze.training.starting import starting_head

if TYPE_CHECKING:
    import torch

    from unfreeze.engine.fit import Fit, Rows
    from unfreeze.engine.inputs import Inputs
    from unfreeze.engine.prefix import Use


def thaw(
    folder: Path,
    dataset: Dataset,
    backbone: Backbone,
    plan: Plan,
    features: Features,
    executor: Executor,
    decisions: Decisions,
    progress: Progress,
) -> tuple[Fitted, Fit]:
    """The classifier that the plan came to, calibrated on validation rows, with its history and ledger."""
    import torch

    from unfreeze.engine.checkpoints import Checkpoints
    from unfreeze.engine.devices import precisions
    from unfreeze.engine.fit import Task, fit
    from unfreeze.engine.prefix import StoringMaker
    from unfreeze.heads.module import from_module

    readable = features.rows
    train_rows = readable[np.isin(readable, dataset.rows("train"))]
    val_rows = readable[np.isin(readable, dataset.rows("val"))]
    if not len(val_rows):
        raise RequestError(
            f"{decisions.text('strategy')} needs validation rows to know when it is right: give --val a share or data."
        )
    trained = copy.deepcopy(backbone)
    if plan.graft is not None:
        trained = attach(trained, plan.graft, seed=decisions.number("seed"))
    device = torch.device(executor.device)
    head = starting_head(dataset, features, backbone, plan, decisions)
    task = Task(
        train=_rows(dataset, train_rows, trained, plan, device, decisions, progress),
        val=_rows(dataset, val_rows, trained, plan, device, decisions, progress),
        seed=decisions.number("seed"),
        device=device,
        class_weight=_class_weight(dataset, train_rows, decisions),
        precisions=precisions(device, decisions.text("precision")),
    )
    engine = executor.name.partition("-")[0]
    maker = StoringMaker(
        backbone=trained,
        task=task,
        views=plan.views,
        batch_size=plan.batch_size,
        use=cast("Use", decisions.text("store")),
        budget=bytes_of(decisions.text("store_budget")),
        build=lambda boundary: build_executor(
            f"{engine}-fp32", trained, boundaries=(), stop=boundary, keep_state=True, device=str(device)
        ),
        folder=cache_root() / "prefix",
        augmented=plan.augment != "none" or plan.token_dropout > 0,
    )
    checkpoints = Checkpoints(folder / CHECKPOINTS, _identity(dataset, backbone, plan, decisions))
    with _stop_on_signal(progress) as should_stop:
        result = fit(
            plan,
            backbone=trained,
            head=head,
            task=task,
            prefix=maker,
            checkpoints=checkpoints,
            resume=bool(decisions.request.resume),
            should_stop=should_stop,
            progress=progress,
        )
    trained.module.to("cpu")
    adapter = None
    if plan.graft is not None:
        base = _base(backbone, decisions)
        adapter = Adapter(base=base, files=pack(trained, plan.graft, base=base.source))
        trained = settle(trained, plan.graft)
    shipped = from_module(head.cpu(), boundaries=(len(trained.stages),))
    fitted = _measure(rehash(trained), shipped, dataset, val_rows, executor, decisions, progress)
    fitted = replace(fitted, classifier=replace(fitted.classifier, adapter=adapter))
    write_atomically(
        folder / "ledger.json", json.dumps([record.to_dict() for record in result.ledger], indent=2)
    )
    write_history(result, folder / "history.csv")
    return fitted, result


def _base(backbone: Backbone, decisions: Decisions) -> Base:
    """Where the frozen network below an adapter came from."""
    request = decisions.request
    return Base(
        source=lasting_source(decisions.text("backbone")),
        weights_hash=backbone.weights_hash,
        image_size=request.image_size,
        pooling=request.pooling,
        max_length=request.max_length,
    )


def write_history(result: Fit, path: Path) -> None:
    """Write one line an epoch as CSV."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["phase", "epoch", "train_loss", "val_log_loss", "val_accuracy", "seconds", "rows_per_second"]
    columns += ["wait_share", "peak_bytes"]
    writer.writerow([*columns, "rates"])
    for record in result.history:
        values = asdict(record)
        rates = "; ".join(f"{name} {rate:.3g}" for name, rate in record.rates.items())
        writer.writerow([*(values[column] for column in columns), rates])
    write_atomically(path, text.getvalue())


def _measure(
    backbone: Backbone,
    head: Head,
    dataset: Dataset,
    val_rows: NDArray[np.intp],
    executor: Executor,
    decisions: Decisions,
    progress: Progress,
) -> Fitted:
    """The trained network's calibration, on validation rows run from their raw inputs in fp32."""
    exact = exact_executor(backbone, head.boundaries, like=executor, same_weights=False)
    classifier = Classifier(backbone=backbone, head=head, labels=dataset.labels)
    logits, rows = score_rows(
        classifier, dataset, val_rows, executor=exact, decisions=decisions, progress=progress
    )
    how = f"{len(rows):,} validation rows, which also chose the epoch"
    return calibrate(backbone, head, dataset, rows, logits, how=how, decisions=decisions)


def _rows(
    dataset: Dataset,
    rows: NDArray[np.intp],
    backbone: Backbone,
    plan: Plan,
    device: torch.device,
    decisions: Decisions,
    progress: Progress,
) -> Rows:
    from unfreeze.engine.fit import Rows

    inputs = _inputs(dataset.select(rows), backbone, plan, device, decisions.number("seed"), progress)
    return Rows(inputs, dataset.label[rows].astype(np.int64))


def _inputs(
    dataset: Dataset, backbone: Backbone, plan: Plan, device: torch.device, seed: int, progress: Progress
) -> Inputs:
    """All rows decoded or tokenised, once for the whole training."""
    from unfreeze.engine.inputs import ImageInputs, TextInputs
    from unfreeze.runtime.tokenize import TextEncoder

    preprocess, threads = backbone.preprocess, reading_threads(str(device))
    everything = np.arange(len(dataset))
    if isinstance(preprocess, ImagePreprocess):
        squares = np.empty((len(dataset), preprocess.height, preprocess.width, 3), dtype=np.uint8)
        digests = np.zeros((len(dataset), 16), dtype=np.uint8)
        for row, picture, digest in read_images(dataset.samples, everything, preprocess, threads=threads):
            if isinstance(picture, Quarantined):
                raise RequestError(f"{picture.name} could be read before and now cannot: {picture.reason}.")
            squares[row], digests[row] = picture, np.frombuffer(digest, dtype=np.uint8)
            progress.count("Decoded for training", row + 1, len(dataset))
        return ImageInputs(squares, keys_of(digests), plan.augment, seed, device)
    assert isinstance(preprocess, TextPreprocess)
    digests, _ = content_hashes(dataset.samples, threads=threads)
    encoder = TextEncoder(preprocess, backbone.assets["tokenizer.json"])
    ids = encoder.encode(read_texts(dataset.samples, everything))
    return TextInputs(ids, keys_of(digests), preprocess.pad_id, seed, device, plan.token_dropout)


def _class_weight(
    dataset: Dataset, rows: NDArray[np.intp], decisions: Decisions
) -> NDArray[np.float32] | None:
    # The guides weigh no classes.
    if decisions.text("class_weight") != "balanced" or decisions.text("recipe") == "classic":
        return None
    counts = np.bincount(dataset.label[rows], minlength=len(dataset.labels))
    return (len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _identity(dataset: Dataset, backbone: Backbone, plan: Plan, decisions: Decisions) -> dict[str, str]:
    """What a checkpoint must share with the run that takes it up."""
    described = json.dumps(asdict(plan), default=str, sort_keys=True)
    return {
        "data": dataset.fingerprint[:16],
        "backbone": f"{backbone.name} {backbone.weights_hash[:16]}",
        "strategy": plan.strategy,
        "plan": sha256(described.encode()).hexdigest()[:16],
        "preprocessing": sha256(json.dumps(backbone.preprocess.to_dict()).encode()).hexdigest()[:16],
        "head": decisions.text("head"),
        "precision": decisions.text("precision"),
        "store": decisions.text("store"),
        "seed": str(decisions.number("seed")),
    }


@contextmanager
def _stop_on_signal(progress: Progress) -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and the first SIGINT into a wish to stop; a second SIGINT leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        progress.say("Stopping after this step; the state will be saved.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
