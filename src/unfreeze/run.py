"""One training from data to a run folder, as a table of contents: each part of ``train`` is a room's work."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.bundle.claim import claimed, is_unfinished
from unfreeze.bundle.folder import CHECKPOINTS
from unfreeze.bundle.places import Destination, destination
from unfreeze.choose.settings import Decisions
from unfreeze.config import TrainRequest
from unfreeze.data.dataset import Dataset
from unfreeze.engine.ranks import ALONE, Ranks
from unfreeze.errors import StoppedError, UnfreezeError
from unfreeze.evaluate.metrics import score
from unfreeze.evaluate.scores import Scores
from unfreeze.progress import Clock, Progress, Silent
from unfreeze.runtime.remote import scrubbed
from unfreeze.training.copies import near_copies
from unfreeze.training.exampling import take_examples
from unfreeze.training.learning import learn
from unfreeze.training.prepare import read_data
from unfreeze.training.probed import probe_data
from unfreeze.training.probing import calibrate_probe, test_classifier, test_floor
from unfreeze.training.saving import save_metrics, save_run
from unfreeze.training.thawing import write_fit

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.model import Model
    from unfreeze.report.content import ReportData

RUNS = Path("runs")


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training: its folder and what it measured.

    ``test_names`` and ``test_groups``: of the test rows, the latter empty where the data have no groups.
    ``learned_from``: how many rows were there to learn from: train, and val where it was drawn from the same rows.
    ``url``: where it was written to as well. ``copy_marks``: what ``NearCopies.marks`` says of each test row, and
    ``nearest_copy``: the one that looks most like a learnt one, and which, empty where none looks nearly the same.
    """

    folder: Path
    strategy: str
    backbone: str
    seconds: float
    validation: Scores
    test: Scores
    test_names: tuple[str, ...]
    report: ReportData = field(repr=False)
    learned_from: int
    url: str | None = None
    test_groups: tuple[int, ...] = ()
    copy_marks: str = ""
    nearest_copy: str = ""

    def model(self) -> Model:
        """The classifier, loaded from the folder as any user would."""
        from unfreeze.model import load

        return load(self.folder)

    def to_dict(self) -> dict[str, object]:
        """What ``train --json`` prints."""
        from unfreeze.report.words import warnings

        return {
            "run": self.url or str(self.folder),
            "strategy": self.strategy,
            "backbone": self.backbone,
            "seconds": round(self.seconds, 3),
            "validation": self.validation.to_dict(),
            "test": self.test.to_dict(),
            "baselines": [baseline.to_dict() for baseline in self.report.baselines],
            "warnings": warnings(self.report),
        }

    def print(self, console: Console) -> None:
        """The summary for a person."""
        from unfreeze.report.terminal import print_summary

        print_summary(self.report, console)

    def _repr_html_(self) -> str:
        from html import escape

        test = self.test
        return (
            f"<p><b>{escape(self.strategy)}</b> on {escape(self.backbone)}: {test.accuracy:.1%} of {test.n} held-out "
            f"rows are right (95 % interval {test.accuracy_low:.1%} to {test.accuracy_high:.1%}). "
            f"Report: <code>{escape(str(self.folder / 'report.html'))}</code></p>"
        )


def train(
    request: TrainRequest,
    *,
    progress: Progress | None = None,
    command: str | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Train, measure and save what the request describes; ``command`` is what the report says was typed.

    ``ranks``: processes that train together, of which this is the first; the others follow (``training.together``).
    Raises RequestError when the request or its data cannot be used; nothing is left behind then. Raises StoppedError
    when it is interrupted: with ``resume`` it goes on.
    """
    progress = progress or Silent()
    clock = Clock()
    request.check()
    if request.output_dir is not None:
        place = destination(request.output_dir, RUNS)
        return _train_in(place, None, request, clock, progress, command, ranks)
    dataset = _read(request, clock)
    folder = free_run_folder(Path(dataset.source).stem or "run")
    return _train_in(Destination(folder), dataset, request, clock, progress, command, ranks)


def _train_in(
    place: Destination,
    dataset: Dataset | None,
    request: TrainRequest,
    clock: Clock,
    progress: Progress,
    command: str | None,
    ranks: Ranks,
) -> Run:
    """The training in a folder that no other process works in; a folder that was named is claimed before reading."""
    try:
        with claimed(place.folder, left="resume" if request.resume else "refuse"):
            read = dataset or _read(request, clock)
            place.begin(resume=bool(request.resume))
            said = scrubbed(command or _in_python(request))
            return _train_into(place, read, request, clock, progress, said, ranks)
    except KeyboardInterrupt:
        if not is_unfinished(place.folder):
            raise
        raise StoppedError(
            f"Interrupted; what was saved is kept. Continue with the same command, --output-dir {place.shown} and "
            "--resume."
        ) from None


def _read(request: TrainRequest, clock: Clock) -> Dataset:
    with clock.part("reading the data"):
        return read_data(request)


def _train_into(
    place: Destination,
    dataset: Dataset,
    request: TrainRequest,
    clock: Clock,
    progress: Progress,
    command: str,
    ranks: Ranks,
) -> Run:
    folder, decisions = place.folder, Decisions(request)
    if not ranks.alone:
        cut = "" if ranks.sharding is None else ", and FSDP cuts what is trained over them"
        reason = f"started together; each computes a share of every batch{cut}"
        decisions.record("processes", ranks.count, "user", reason)
    probed = probe_data(dataset, decisions, clock, progress, ranks=ranks)
    material, probe = probed.material, probed.probe
    backbone, features = material.backbone, material.features
    with clock.part("probe and thaw curve"):
        floor = calibrate_probe(dataset, features, probe.probe, backbone, decisions)
    learned = learn(folder, material, probe, floor, probed.plan, clock)
    fitted, fit = learned.fitted, learned.fit
    with clock.part("test rows, from the raw inputs"):
        exact = probed.executor.exact if fitted.exact is None else fitted.exact.executor
        tested, passed = test_classifier(
            fitted.classifier, dataset, exact, decisions, progress, what="Test rows", store=None
        )
    beside, oof = None, (floor.rows, floor.probabilities)
    if fitted.exact is not None:
        decisions.record("measured_by", fitted.exact.name, "data", fitted.exact.reason)
        # As large as the features of all test rows.
        del passed
        with clock.part("frozen pass"):
            beside, passed = test_floor(floor.classifier, dataset, probed.executor.exact, decisions, progress)
    with clock.part("rows alike"):
        copies = near_copies(dataset, passed, features)
    del passed
    with clock.part("scoring"):
        labels = dataset.labels.names
        groups, test_groups = dataset.groups_of(fitted.rows), dataset.groups_of(tested.rows)
        parts = (("test", test_groups), ("validation", groups))
        validation = score(fitted.probabilities, fitted.y, labels, groups=groups)
        test = score(tested.probabilities, dataset.label[tested.rows], labels, groups=test_groups)
    examples = None
    if decisions.value("examples"):
        with clock.part("examples"):
            examples = take_examples(
                dataset,
                fitted.classifier,
                features=features,
                executor=None if fit is None else tested.executor,
                batch_size=decisions.number("batch_size"),
                seed=decisions.number("seed"),
            )
    with clock.part("saving"):
        names = tuple(dataset.samples.name(int(row)) for row in tested.rows)
        if fit is not None:
            write_fit(fit, folder)
        save_run(folder, fitted, dataset, decisions, names, tested, examples)
        save_metrics(folder, validation, test, fitted.how)
    from unfreeze.reporting import Evidence, nearest_copy, write_pages

    evidence = Evidence(
        folder=folder,
        dataset=dataset,
        backbone=backbone,
        executor=probed.executor,
        features=features,
        probe=probe,
        classifier=fitted.classifier,
        validation=validation,
        validation_how=fitted.how,
        grouped=tuple(name for name, codes in parts if codes is not None),
        calibration_rows=len(fitted.rows),
        oof=oof,
        test=test,
        test_rows=tested.rows,
        test_logits=tested.logits,
        copies=copies,
        floor=None if beside is None else beside.probabilities,
        fit=fit,
        choice=None if learned.choice is None else learned.choice.to_dict(),
        cost=learned.cost,
        trained=None if learned.choice is None else learned.choice.trained,
        training_seconds=None if learned.choice is None else learned.choice.seconds,
        examples=0 if examples is None else len(examples.labels),
        settings=decisions.resolved(),
        fingerprint=dataset.fingerprint,
        command=command,
    )
    report = write_pages(evidence, clock, progress)
    # Once more, with what the pages have computed: should those fail, the scores are there.
    save_metrics(folder, validation, test, fitted.how, [baseline.to_dict() for baseline in report.baselines])
    with clock.part("reading the run back"):
        _check_saved(folder)
    place.deliver()
    # Not before: a disk that is full, or a kill, must not cost the training.
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return Run(
        folder=folder,
        strategy=decisions.text("strategy"),
        backbone=backbone.name,
        seconds=clock.total,
        validation=validation,
        test=test,
        test_names=names,
        test_groups=() if test_groups is None else tuple(map(int, test_groups)),
        copy_marks=copies.marks(tested.rows),
        nearest_copy=nearest_copy(evidence),
        report=report,
        learned_from=len(dataset.rows("train") if "val" in dataset.given else dataset.rows("train", "val")),
        url=None if place.url is None else place.shown,
    )


def _check_saved(folder: Path) -> None:
    """Raise UnfreezeError where the run does not load, or answers otherwise than the network that was trained."""
    from unfreeze.bundle.loading import load

    try:
        load(folder)
    except UnfreezeError as problem:
        raise UnfreezeError(
            f"What was trained was written, and does not load: {problem} Checkpoints stay until it does: --resume."
        ) from None


def _in_python(request: TrainRequest) -> str:
    """The call of ``unfreeze.train`` that makes this request; data in memory have no text of their own."""
    data = repr(str(request.data)) if isinstance(request.data, str | Path) else "data"
    settings = (
        f"{name}={value!r}" if isinstance(value, int | float | str) else f"{name}={name}_data"
        for name, value in request.given().items()
        if name != "output_dir"
    )
    return f"unfreeze.train({', '.join([data, *settings])})"


def free_run_folder(name: str) -> Path:
    """``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, … that does not exist.

    Wildcards are left out of the name.
    """
    name = re.sub(r"[-_.]?[*?\[\]]+", "", name) or "run"
    folder, number = RUNS / name, 1
    while folder.exists():
        number += 1
        folder = RUNS / f"{name}-{number}"
    return folder
