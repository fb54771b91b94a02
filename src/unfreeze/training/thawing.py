"""Thawing: from features and a strategy's plan to a fine-tuned classifier."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unfreeze.backbones import rehash
from unfreeze.bundle.classifier import Adapter, Base, Classifier
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.bundle.loading import lasting_source
from unfreeze.choose.settings import Decisions
from unfreeze.contracts import Backbone, Executor
from unfreeze.engine.checkpoints import Checkpoints
from unfreeze.errors import DivergedError, RequestError
from unfreeze.grafts import pack, settle
from unfreeze.heads.head import Head
from unfreeze.plan import Plan
from unfreeze.runtime.files import write_atomically
from unfreeze.training.identity import identify_training
from unfreeze.training.material import Material
from unfreeze.training.probing import Fitted, calibrate, score_rows
from unfreeze.training.starting import fitted_anew, starting_head
from unfreeze.training.stopping import stop_on_signal
from unfreeze.training.together import Training, run_plan

if TYPE_CHECKING:
    from torch import nn

    from unfreeze.engine.task import EpochRecord, Fit


def thaw(
    folder: Path,
    material: Material,
    plan: Plan,
    *,
    resume: bool,
    watch: Callable[[EpochRecord], None] = lambda _: None,
) -> tuple[Fitted, Fit]:
    """The classifier that the plan came to, calibrated on validation rows, with its history and ledger.

    ``resume``: from the newest checkpoint in the folder, if there is one. ``watch`` sees each epoch, and ends the
    training with what it raises. Raises DivergedError with the names of the rows when a loss is not finite.
    """
    from unfreeze.engine.state import Weights

    decisions, progress = material.decisions, material.progress
    train_rows, val_rows = material.part("train"), material.part("val")
    if not len(val_rows):
        raise RequestError(
            f"{plan.strategy} needs validation rows to know when it is right: give --val a share or data."
        )
    if material.device.type == "cuda":
        progress.say(
            "On a GPU, sums are taken in an order of their own: trained again, the last digits of the weights differ."
        )
    head = starting_head(material, plan, train_rows)
    checkpoints = Checkpoints(folder / CHECKPOINTS, identify_training(material, plan))
    with stop_on_signal(progress) as should_stop:
        try:
            trained, result = run_plan(
                material,
                Training(plan, head, train_rows, val_rows),
                checkpoints=checkpoints,
                resume=resume,
                should_stop=should_stop,
                progress=progress,
                watch=watch,
            )
        except DivergedError as problem:
            names = tuple(material.dataset.samples.name(int(row)) for row in train_rows[list(problem.rows)])
            raise DivergedError(problem.where, rows=problem.rows, names=names, kept=problem.kept) from None
    spare = None
    if not decisions.value("keep_both"):
        result.kept = None
    if result.kept is not None:
        network, other_head = copy.deepcopy((trained, head))
        Weights(plan, network, other_head).load(result.kept.tensors)
        spare = result.kept.name, _finish(network, other_head, material, plan, train_rows, val_rows)
    return replace(_finish(trained, head, material, plan, train_rows, val_rows), spare=spare), result


def _finish(
    trained: Backbone,
    head: nn.Module,
    material: Material,
    plan: Plan,
    train_rows: NDArray[np.intp],
    val_rows: NDArray[np.intp],
) -> Fitted:
    """A trained network and its head as a classifier, calibrated on validation rows; a graft is merged in place."""
    from unfreeze.heads.module import from_module

    adapter = None
    if plan.graft is not None:
        base = _base(material.backbone, material.decisions)
        adapter = Adapter(base=base, files=pack(trained, plan.graft, base=base.source))
        trained = settle(trained, plan.graft)
    exact = material.exact_executor(trained, train_rows)
    if plan.ends_in_pairs:
        material.progress.say("The head is fitted anew on what the network makes of the training rows now.")
        shipped = fitted_anew(material, exact.executor, train_rows)
    else:
        shipped = from_module(head.cpu(), boundaries=(len(trained.stages),))
    fitted = _measure(rehash(trained), shipped, exact.executor, material, plan, val_rows)
    return replace(fitted, classifier=replace(fitted.classifier, adapter=adapter), exact=exact)


def write_fit(result: Fit, folder: Path) -> None:
    """Write ``ledger.json`` and ``history.csv``."""
    write_atomically(
        folder / "ledger.json", json.dumps([record.to_dict() for record in result.ledger], indent=2)
    )
    write_history(result, folder / "history.csv")


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
    exact: Executor,
    material: Material,
    plan: Plan,
    val_rows: NDArray[np.intp],
) -> Fitted:
    """The trained network's calibration, on validation rows run from their raw inputs in fp32."""
    dataset, decisions = material.dataset, material.decisions
    classifier = Classifier(backbone=backbone, head=head, labels=dataset.labels)
    logits, passed = score_rows(
        classifier,
        dataset,
        val_rows,
        executor=exact,
        decisions=decisions,
        progress=material.progress,
        what="Validation rows",
    )
    used = "which trained nothing" if plan.ends_in_pairs else "which could also choose the epoch"
    how = f"{len(passed.rows):,} validation rows, {used}"
    return calibrate(backbone, head, dataset, passed.rows, logits, how=how, decisions=decisions)
