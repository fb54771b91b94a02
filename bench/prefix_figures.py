"""The figures of bench/prefix.py and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unfreeze.engine.estimate import Estimate

ESTIMATED = ("frozen", "trained", "input")
MEASURED = (
    "plain", "stored", "input", "frozen", "filling", "preparing", "total_plain", "total_stored",
    "epochs_plain", "epochs_stored",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """One phase: seconds an epoch without the store and with it, and how many of the former the two savings took.

    ``input``: augmentation and copying; ``frozen``: the stages below the boundary. Totals are of the epochs that were
    run, the store's with filling it with the training rows; ``preparing`` (converting the network for its executor,
    measuring) is in neither, since it does not grow with the rows.
    """

    strategy: str
    phase: str
    which: str
    boundary: int
    estimate: Estimate
    plain: float
    stored: float
    input: float
    frozen: float
    filling: float
    preparing: float
    total_plain: float
    total_stored: float
    epochs_plain: int
    epochs_stored: int

    @property
    def name(self) -> str:
        phase = "" if self.phase == self.strategy else f" {self.phase}"
        return f"{self.strategy}{phase} @{self.boundary}, {self.which}"

    @property
    def speedup(self) -> float:
        return self.plain / self.stored

    @property
    def compute_speedup(self) -> float:
        return (self.plain - self.input) / self.stored

    @property
    def compute_bound(self) -> float:
        trained = 3 * self.estimate.trained
        return (self.estimate.frozen + trained) / trained

    @property
    def predicted_plain(self) -> float:
        return replace(self.estimate, rounds=self.epochs_plain).plain_seconds

    @property
    def predicted_stored(self) -> float:
        return replace(self.estimate, rounds=self.epochs_stored).stored_seconds


@dataclass(frozen=True)
class Total:
    """One training: seconds of all of it, and its accuracy on the test rows."""

    strategy: str
    stored: bool
    seconds: float
    accuracy: float


def print_figures(figures: Sequence[Figures]) -> None:
    """Print all tables: each seed, and their mean behind them where there are several."""
    shown: list[Figures] = []
    for key in dict.fromkeys((one.strategy, one.phase) for one in figures):
        group = [one for one in figures if (one.strategy, one.phase) == key]
        shown += group if len(group) == 1 else [*group, mean_of(group)]
    print_epochs(shown)
    print_parts(shown)
    print_predictions(shown)


def mean_of(group: Sequence[Figures]) -> Figures:
    """The figures with every number averaged; ratios are then those of the means."""
    first = group[0]
    told = {name: statistics.mean(getattr(one.estimate, name) for one in group) for name in ESTIMATED}
    measured = {name: statistics.mean(getattr(one, name) for one in group) for name in MEASURED}
    return replace(first, which="mean", estimate=replace(first.estimate, **told), **measured)


def print_epochs(figures: Sequence[Figures]) -> None:
    print(
        "\nSeconds an epoch, from the second on; 'reached' is the measured speed-up over the predicted bound."
    )
    print("'compute' leaves the input out of both: (P + 3S) / 3S.")
    print(f"{'':34} {'plain':>7} {'stored':>7} {'faster':>7} {'bound':>7} {'reached':>8}", end="")
    print(f" {'compute':>8} {'bound':>7} {'reached':>8}")
    for one in figures:
        print(
            f"{one.name:34} {one.plain:7.2f} {one.stored:7.2f} {one.speedup:7.2f} "
            f"{one.estimate.epoch_speedup:7.2f} {one.speedup / one.estimate.epoch_speedup:8.0%} "
            f"{one.compute_speedup:8.2f} {one.compute_bound:7.2f} {one.compute_speedup / one.compute_bound:8.0%}"
        )


def print_parts(figures: Sequence[Figures]) -> None:
    print("\nMilliseconds a row, predicted > measured, and what the saving of an epoch is made of.")
    print(f"{'':34} {'input I':>15} {'frozen P':>15} {'3S plain':>15} {'3S stored':>15}", end="")
    print(f" {'saved: input':>13} {'frozen':>7}")
    for one in figures:
        rows, told = one.estimate.rows, one.estimate
        trained = 3 * told.trained
        pairs = (
            (told.input, one.input / rows),
            (told.frozen, one.frozen / rows),
            (trained, (one.plain - one.input - one.frozen) / rows),
            (trained, one.stored / rows),
        )
        saved = one.plain - one.stored
        cells = " ".join(f"{1e3 * predicted:6.2f} > {1e3 * measured:6.2f}" for predicted, measured in pairs)
        print(f"{one.name:34} {cells} {one.input / saved:13.0%} {one.frozen / saved:7.0%}")


def print_predictions(figures: Sequence[Figures]) -> None:
    print(
        "\nSeconds of a phase, predicted > measured, for the epochs that were run; preparing"
        " included, and the store's with its filling."
    )
    print(
        f"{'':34} {'epochs':>8} {'prepare':>8} {'fill':>6} {'stored':>17} {'error':>6} {'plain':>17} {'error':>6}"
    )
    for one in figures:
        print(
            f"{one.name:34} {f'{one.epochs_stored:g}/{one.epochs_plain:g}':>8} {one.preparing:8.1f} {one.filling:6.1f} "
            f"{one.predicted_stored:7.1f} > {one.total_stored:7.1f} "
            f"{one.predicted_stored / one.total_stored - 1:+6.0%} "
            f"{one.predicted_plain:7.1f} > {one.total_plain:7.1f} {one.predicted_plain / one.total_plain - 1:+6.0%}"
        )


def print_totals(totals: Sequence[Total]) -> None:
    print(
        "\nMeans over the seeds: accuracy on test, and seconds of the whole thawing, preparing and validation too."
    )
    print(f"{'':12} {'accuracy: plain':>16} {'stored':>7} {'points':>7} {'seconds: plain':>15} {'stored':>7}")
    for strategy in dict.fromkeys(one.strategy for one in totals):
        shares, seconds = {}, {}
        for stored in (False, True):
            chosen = [one for one in totals if one.strategy == strategy and one.stored == stored]
            shares[stored] = statistics.mean(one.accuracy for one in chosen)
            seconds[stored] = statistics.mean(one.seconds for one in chosen)
        print(
            f"{strategy:12} {shares[False]:16.4f} {shares[True]:7.4f} {100 * (shares[True] - shares[False]):+7.2f} "
            f"{seconds[False]:15.1f} {seconds[True]:7.1f}"
        )
