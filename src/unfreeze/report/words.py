"""Numbers as text, and the plain sentences that say what the numbers mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unfreeze.amounts import counted
from unfreeze.report.content import Baseline, Calibration, Chip, Estimate, Metrics, ReportData, ThawPoint

KINDS = {"image": "images", "text": "texts"}
# Control characters and lone surrogates (from undecodable file names) cannot stand in a page or a text file; marks of
# direction would turn the text after a name round.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FEW_TEST_ROWS = 100
HIGH_ECE = 0.05


def printable(text: str) -> str:
    """The text with a replacement character for everything that is no character of a text, or turns it round."""
    return UNPRINTABLE.sub("\ufffd", text)


def percent(share: float, *, decimals: int = 1) -> str:
    """A share in 0..1 as ``85.1 %``."""
    return f"{share * 100:.{decimals}f} %"


def interval(estimate: Estimate) -> str:
    """The bounds as ``81.5–88.6`` (in percent), or an empty text where none are known."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low * 100:.1f}–{estimate.high * 100:.1f}"


def with_interval(estimate: Estimate) -> str:
    """The number and its bounds, such as ``85.1 % (81.5–88.6)``."""
    bounds = interval(estimate)
    return f"{percent(estimate.value)} ({bounds})" if bounds else percent(estimate.value)


def signed(share: float) -> str:
    """A difference of shares in points, with its sign; what is rounded to nothing is ``+0.0``."""
    return f"{100 * share:+z.1f}".replace("-", "−")


def points(share: float) -> str:
    """The same with its unit."""
    return f"{signed(share)} points"


def number(value: float) -> str:
    """A count or amount with thousands separated."""
    return f"{value:,.0f}"


def parameters_text(count: int) -> str:
    """A number of parameters: ``3.4 million`` or ``12,800``."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} million"
    return number(count)


def setting_text(value: object) -> str:
    """A resolved value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {setting_text(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(entry) for entry in value) or "none"
    return str(value)


def strategy_text(name: str) -> str:
    """A strategy's name in running text."""
    return name.replace("-", " ")


def title(data: ReportData) -> str:
    """What was trained on what, as a heading."""
    return f"{data.backbone.name} on {data.data.name}"


def lead(data: ReportData) -> str:
    """What was trained on what, in one sentence."""
    kind, classes = KINDS[data.modality], len(data.data.labels)
    start = "random weights of the architecture" if data.strategy == "scratch" else "the pretrained"
    return (
        f"A classifier of {classes} classes, trained by {strategy_text(data.strategy)} from {start} "
        f"{data.backbone.name} on {number(data.data.rows)} labelled {kind} ({data.created})."
    )


def verdict(data: ReportData) -> str:
    """The result: accuracy, its interval, what the most frequent class would give, and what is gained on the floor.

    Of a floor that is not clearly behind ``comparisons`` tells.
    """
    accuracy = data.test.accuracy
    said = f"{percent(accuracy.value)} of {number(data.test.n)} held-out {KINDS[data.modality]} are right"
    if bounds := interval(accuracy):
        said += f" (95 % interval {bounds})"
    majority = _find(data.baselines, "majority")
    if majority is not None:
        said += f"; always answering '{majority.name}' would give {percent(majority.accuracy.value)}"
    floor = _find(data.baselines, "probe")
    gap = None if floor is None else floor.difference
    if gap is None or gap.low is None or gap.low <= 0:
        return said + "."
    return f"{said}. That is {gap.value * 100:.1f} points more than the probe, the floor{_bounds(gap)}."


def _bounds(gap: Estimate) -> str:
    """The interval of a difference in points, in brackets; nothing where none is known."""
    if gap.low is None or gap.high is None:
        return ""
    return f" (95 % interval {signed(gap.low)} to {signed(gap.high)})"


def baseline_name(baseline: Baseline) -> str:
    """What a baseline is called beside the result."""
    names = {
        "chance": "chance",
        "majority": f"always '{baseline.name}'",
        "tfidf": "TF-IDF + logistic regression" + (f" {baseline.name}" if baseline.name else ""),
        "probe": "probe (the floor)",
    }
    return names.get(baseline.kind, baseline.name)


def comparisons(data: ReportData) -> list[str]:
    """Sentences on baselines that the run does not clearly beat; empty when it beats all of them."""
    run = data.test.accuracy
    said = []
    for baseline in data.baselines:
        gap = baseline.difference or Estimate(run.value - baseline.accuracy.value)
        low, high = _lead(run, baseline)
        if baseline.kind == "published" or low > 0:
            continue
        name = baseline_name(baseline)
        name = name[0].upper() + name[1:]
        points = f"{abs(gap.value) * 100:.1f} points"
        # This run's lead over the baseline: its ends change places where the baseline is the subject.
        bounds = _bounds(Estimate(-gap.value, _negative(gap.high), _negative(gap.low)))
        if high < 0:
            advice = " For these texts it is the better classifier." if baseline.kind == "tfidf" else ""
            said.append(f"{name} is better by {points} on the same rows{bounds}.{advice}")
        elif points == "0.0 points":
            said.append(f"{name} is as good on the same rows{bounds}.")
        elif gap.value < 0:
            said.append(f"{name} is ahead by {points} on the same rows, which is within chance{bounds}.")
        else:
            said.append(f"{name} is only {points} behind on the same rows, which is within chance{bounds}.")
    return said


def _lead(run: Estimate, baseline: Baseline) -> tuple[float, float]:
    """The ends of the run's lead over a baseline: of the paired interval, or where there is none by the run's own."""
    gap = baseline.difference
    if gap is not None and gap.low is not None and gap.high is not None:
        return gap.low, gap.high
    return _low(run) - baseline.accuracy.value, _high(run) - baseline.accuracy.value


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def warnings(data: ReportData) -> list[str]:
    """All that a person should read before the numbers are believed."""
    return [*data.data.warnings, *comparisons(data), *data.notes]


def status_chips(data: ReportData) -> list[Chip]:
    """The state of the run in a few words each, its own chips last."""
    chips = [
        Chip(f"{KINDS[data.modality]}, {len(data.data.labels)} classes"),
        Chip(strategy_text(data.strategy)),
    ]
    majority = _find(data.baselines, "majority")
    low = data.test.accuracy.low if data.test.accuracy.low is not None else data.test.accuracy.value
    if majority is not None:
        better = low > majority.accuracy.value
        chips.append(
            Chip("beats the majority", "good") if better else Chip("no better than the majority", "warn")
        )
    tfidf = _find(data.baselines, "tfidf")
    if tfidf is not None and _lead(data.test.accuracy, tfidf)[1] < 0:
        chips.append(Chip("TF-IDF does better", "warn"))
    chips.append(_calibration_chip(data.calibration))
    if data.threshold is not None:
        below = f"abstains below {percent(data.threshold.probability, decimals=0)}"
        chips.append(Chip(below if data.threshold.coverage < 1 else "answers every row"))
    if data.test.n < FEW_TEST_ROWS:
        chips.append(Chip(f"only {data.test.n} test rows", "warn"))
    if warned := len(data.data.warnings):
        chips.append(Chip(f"{counted(warned, 'warning')} on the data", "warn"))
    return [*chips, *data.chips]


def _calibration_chip(entry: Calibration) -> Chip:
    if entry.ece_after > max(HIGH_ECE, entry.ece_chance):
        return Chip(f"calibration error {percent(entry.ece_after)}", "warn")
    if entry.ece_chance > HIGH_ECE:
        return Chip("too few rows to tell the calibration")
    return Chip("calibrated", "good")


def read_thaw_curve(points: Sequence[ThawPoint], joined: ThawPoint | None = None) -> str:
    """What the curve says: where accuracy stops rising, what the last stages add, if joined depths help."""
    if len(points) < 2:
        return ""
    best = max(points, key=lambda point: point.accuracy.value)
    last = points[-1]
    # The first stage from which on every stage is as good as the best one, as far as the interval can tell.
    short = [index for index, point in enumerate(points) if point.accuracy.value < _low(best.accuracy)]
    reached = points[min(short[-1] + 1, len(points) - 1) if short else 0]
    gap = best.accuracy.value - last.accuracy.value
    if best is last:
        said = f"Accuracy is highest at the last stage ({percent(last.accuracy.value)})"
        if reached is last:
            said += " and still rising there: these data use the pretrained features to the top."
        else:
            said += f", but from '{reached.name}' on the difference lies within the interval."
    elif last.accuracy.value < _low(best.accuracy):
        said = (
            f"Accuracy peaks at '{best.name}' ({percent(best.accuracy.value)}) and falls by {gap * 100:.1f} "
            "points to the last stage: the stages above it are specialised for the pretraining task, and "
            "thawing has most to win there."
        )
    else:
        said = (
            f"Accuracy is highest at '{best.name}' ({percent(best.accuracy.value)}); the last stage is "
            f"{gap * 100:.1f} points below it, which is within the interval."
        )
    first = points[0]
    said += f" The first stage, '{first.name}', gives {percent(first.accuracy.value)}."
    if joined is not None:
        change = (joined.accuracy.value - last.accuracy.value) * 100
        said += f" Several depths joined give {percent(joined.accuracy.value)}"
        said += f" ({change:+.1f} points to the last stage)."
    return said.replace("+0.0 points", "0.0 points").replace("-0.0 points", "0.0 points")


def threshold_text(data: ReportData) -> str:
    """What the abstain threshold does, or why there is none."""
    threshold = data.threshold
    if threshold is not None and threshold.coverage >= 1:
        return (
            "No row needs to be left unanswered: by the validation rows at least "
            f"{percent(threshold.precision)} of all answers are right (95 % sure), which is what was wished for."
        )
    if threshold is None:
        return data.threshold_note or "No abstain threshold is set: every row gets an answer."
    return (
        f"Below a probability of {percent(threshold.probability)} the classifier abstains, so that by the validation "
        f"rows at least {percent(threshold.precision)} of its answers are right (95 % sure); "
        f"{percent(threshold.coverage)} of them get an answer."
    )


def calibration_text(data: ReportData) -> str:
    """What the temperature is, where it comes from, and what it did to the calibration error on test."""
    entry = data.calibration
    said = (
        f"Temperature {entry.temperature:.3f}, fitted on {number(entry.rows)} rows ({entry.fitted_on}), "
        f"moves the calibration error on test from {percent(entry.ece_before)} to {percent(entry.ece_after)}."
    )
    if entry.ece_after <= entry.ece_chance and entry.ece_chance > HIGH_ECE:
        said += (
            f" So few test rows cannot tell whether that is much: on them a calibrated model has up to "
            f"{percent(entry.ece_chance)} by chance."
        )
    return said


def score_rows(metrics: Metrics) -> dict[str, str]:
    """The numbers of a part, by the name of the score."""
    rows = {
        "accuracy": with_interval(metrics.accuracy),
        "balanced accuracy": with_interval(metrics.balanced_accuracy),
        "macro F1": with_interval(metrics.macro_f1),
    }
    rows |= {f"top-{k} accuracy": percent(share) for k, share in metrics.top_k if k > 1}
    if metrics.roc_auc is not None:
        rows["ROC AUC"] = f"{metrics.roc_auc:.3f}"
    return rows | {"log-loss (nats)": f"{metrics.log_loss:.3f}", "calibration error": percent(metrics.ece)}


def _find(baselines: Sequence[Baseline], kind: str) -> Baseline | None:
    return next((baseline for baseline in baselines if baseline.kind == kind), None)


def _low(estimate: Estimate) -> float:
    return estimate.low if estimate.low is not None else estimate.value


def _high(estimate: Estimate) -> float:
    return estimate.high if estimate.high is not None else estimate.value


def examples_text(data: ReportData) -> str:
    """What of the training data lies in the run's folder; an empty text where nothing was kept for answers."""
    if not data.examples:
        return ""
    made = "thumbnails" if data.modality == "image" else "beginnings"
    return (
        f"The run's folder holds {made} of {number(data.examples)} training rows (examples.safetensors), to show "
        "beside answers; that file may be removed before the run is handed on. "
        f"The report shows some {KINDS[data.modality]} too."
    )
