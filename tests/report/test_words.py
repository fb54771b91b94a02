"""The sentences say what the numbers mean, and no more."""

from __future__ import annotations

from dataclasses import replace

from unfreeze.amounts import counted, duration, size
from unfreeze.report import words
from unfreeze.report.content import Baseline, Chip, Estimate, ThawPoint


def points(*values: float, half: float = 0.02) -> tuple[ThawPoint, ...]:
    return tuple(ThawPoint(f"s{i}", Estimate(v, v - half, v + half)) for i, v in enumerate(values))


def test_a_curve_that_rises_to_the_end_is_read_as_rising():
    said = words.read_thaw_curve(points(0.5, 0.7, 0.8, 0.9))
    assert said == (
        "Accuracy is highest at the last stage (90.0 %) and still rising there: these data use the "
        "pretrained features to the top. The first stage, 's0', gives 50.0 %."
    )


def test_a_curve_that_flattens_names_the_stage_from_which_on_nothing_changes():
    said = words.read_thaw_curve(points(0.5, 0.89, 0.85, 0.885, 0.89, 0.90))
    assert "from 's3' on the difference lies within the interval" in said


def test_a_peak_before_the_end_points_to_thawing():
    said = words.read_thaw_curve(points(0.5, 0.9, 0.8))
    assert said.startswith("Accuracy peaks at 's1' (90.0 %) and falls by 10.0 points to the last stage")


def test_a_peak_within_the_interval_is_not_made_much_of():
    said = words.read_thaw_curve(points(0.5, 0.86, 0.85))
    assert said.startswith("Accuracy is highest at 's1' (86.0 %); the last stage is 1.0 points below it")


def test_joined_depths_are_compared_with_the_last_stage():
    joined = ThawPoint("joined", Estimate(0.858))
    assert "Several depths joined give 85.8 % (+0.8 points to the last stage)." in words.read_thaw_curve(
        points(0.7, 0.85), joined
    )
    assert "(0.0 points to" in words.read_thaw_curve(points(0.7, 0.8581), joined)


def test_a_curve_of_one_point_says_nothing():
    assert words.read_thaw_curve(points(0.8)) == ""


def test_a_network_that_started_at_random_is_not_called_pretrained(toys):
    data = toys.images()
    assert f"by feature extraction from the pretrained {data.backbone.name} on" in words.lead(data)
    told = words.lead(replace(data, strategy="scratch"))
    assert f"by scratch from random weights of the architecture {data.backbone.name} on" in told
    assert "pretrained" not in told


def test_baselines_beaten_for_sure_are_not_mentioned(toys):
    assert words.comparisons(toys.images()) == []


def test_a_baseline_within_chance_is_said_to_be_so(toys):
    data = toys.images()
    ahead = Baseline("tfidf", Estimate(0.86), difference=Estimate(-0.003, -0.02, 0.014))
    behind = Baseline("probe", Estimate(0.85), difference=Estimate(0.007, -0.01, 0.02))
    unpaired = Baseline("majority", Estimate(0.84), name="x")
    said = words.comparisons(replace(data, baselines=(ahead, behind, unpaired)))
    assert said == [
        "TF-IDF + logistic regression is ahead by 0.3 points on the same rows, which is within chance (95 % interval "
        "−1.4 to +2.0).",
        "Probe (the floor) is only 0.7 points behind on the same rows, which is within chance (95 % interval −2.0 to "
        "+1.0).",
        "Always 'x' is only 1.7 points behind on the same rows, which is within chance.",
    ]
    some = replace(ahead, name="on 100,000 of the texts")
    assert words.comparisons(replace(data, baselines=(some,)))[0].startswith(
        "TF-IDF + logistic regression on 100,000 of the texts is ahead by"
    )


def test_a_baseline_without_a_paired_interval_is_better_where_it_lies_above_the_run_s_own(toys):
    data = toys.images()
    data = replace(data, test=replace(data.test, accuracy=Estimate(0.75, 0.72, 0.78)))
    chance, within = Baseline("chance", Estimate(0.79)), Baseline("majority", Estimate(0.77), name="x")
    always = Baseline("majority", Estimate(0.95), name="fine")
    assert words.comparisons(replace(data, baselines=(chance, within, always))) == [
        "Chance is better by 4.0 points on the same rows.",
        "Always 'x' is ahead by 2.0 points on the same rows, which is within chance.",
        "Always 'fine' is better by 20.0 points on the same rows.",
    ]


def test_a_floor_that_is_clearly_beaten_is_said_with_its_interval(toys):
    data = toys.images()
    floor = Baseline("probe", Estimate(0.80), difference=Estimate(0.032, 0.004, 0.06))
    told = words.verdict(replace(data, baselines=(floor,)))
    assert told.endswith("That is 3.2 points more than the probe, the floor (95 % interval +0.4 to +6.0).")
    unclear = replace(floor, difference=Estimate(0.032, -0.01, 0.06))
    assert "floor" not in words.verdict(replace(data, baselines=(unclear,)))


def test_a_baseline_that_is_as_good_is_said_to_be_so(toys):
    same = Baseline("probe", Estimate(0.80), difference=Estimate(0.0, -0.02, 0.02))
    (said,) = words.comparisons(replace(toys.images(), baselines=(same,)))
    assert said == "Probe (the floor) is as good on the same rows (95 % interval −2.0 to +2.0)."


def test_chips_warn_where_a_person_should_look(toys):
    data = toys.images()
    calm = {chip.text: chip.tone for chip in words.status_chips(data)}
    assert calm["beats the majority"] == "good"
    assert calm["calibrated"] == "good"
    assert calm["1 warning on the data"] == "warn"
    worse = replace(
        data,
        baselines=(Baseline("majority", Estimate(0.85), name="x"),),
        calibration=replace(data.calibration, ece_after=0.12),
        test=replace(data.test, n=60),
        chips=(Chip("from the store", "good"),),
    )
    chips = {chip.text: chip.tone for chip in words.status_chips(worse)}
    assert chips["no better than the majority"] == "warn"
    assert chips["calibration error 12.0 %"] == "warn"
    assert chips["only 60 test rows"] == "warn"
    assert list(chips)[-1] == "from the store"


def test_a_calibration_error_that_chance_explains_is_no_warning(toys):
    data = toys.images()

    def told(after, chance):
        changed = replace(data, calibration=replace(data.calibration, ece_after=after, ece_chance=chance))
        (chip,) = (chip for chip in words.status_chips(changed) if "calibrat" in chip.text)
        return chip.text, chip.tone, words.calibration_text(changed).partition(" %. ")[2]

    few = "So few test rows cannot tell whether that is much: on them a calibrated model has up to 14.0 % by chance."
    assert told(0.12, 0.14) == told(0.04, 0.14) == ("too few rows to tell the calibration", "neutral", few)
    assert told(0.15, 0.14) == ("calibration error 15.0 %", "warn", "")
    assert told(0.06, 0.03) == ("calibration error 6.0 %", "warn", "")
    assert told(0.04, 0.03) == ("calibrated", "good", "")


def test_tfidf_does_better_where_chance_does_not_explain_it(toys):
    data = toys.texts()

    def chips(difference):
        tfidf = Baseline("tfidf", Estimate(0.963, 0.935, 0.985), difference=difference)
        return {chip.text for chip in words.status_chips(replace(data, baselines=(tfidf,)))}

    assert "TF-IDF does better" in chips(Estimate(-0.0235, -0.042, -0.005))
    assert "TF-IDF does better" not in chips(Estimate(-0.0235, -0.06, 0.01))


def test_durations_read_as_a_person_says_them():
    said = [duration(seconds) for seconds in (0.0, 0.042, 1.0, 59.94, 59.96, 185.2, 3599.6, 7440)]
    assert said == [
        "less than 0.01 s",
        "0.04 s",
        "1.0 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 00 min",
        "2 h 04 min",
    ]


def test_sizes_and_counts_read_as_a_person_says_them():
    said = [size(count) for count in (1, 999, 1_000, 43_210, 840_000, 12e6, 1.46e9)]
    assert said == ["1 byte", "999 bytes", "1 kB", "43 kB", "0.8 MB", "12 MB", "1.5 GB"]
    assert [counted(count, "view") for count in (0, 1, 2_000)] == ["0 views", "1 view", "2,000 views"]


def test_settings_read_as_a_person_writes_them():
    values = (None, True, False, 0.03162, ("a", "b"), (), 224, "squash")
    assert [words.setting_text(value) for value in values] == [
        "none",
        "yes",
        "no",
        "0.03162",
        "a, b",
        "none",
        "224",
        "squash",
    ]


def test_a_missing_threshold_is_explained(toys):
    assert (
        words.threshold_text(toys.many(12)) == "Only 84 validation rows: too few to set an abstain threshold."
    )
    assert "every row gets an answer" in words.threshold_text(replace(toys.many(12), threshold_note=""))


def test_a_difference_has_a_sign_and_none_where_it_is_rounded_to_nothing():
    assert [words.signed(share) for share in (0.0123, -0.0123, 0.0, -0.0003)] == [
        "+1.2",
        "−1.2",
        "+0.0",
        "+0.0",
    ]
