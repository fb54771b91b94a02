"""The gate: what it takes, what it refuses, and what it says of the source."""

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.adapting.gate import Candidate, decide, has_collapsed, paired, refuse, skill
from unfreeze.adapting.shift import Shift, describe_shift, measure_shift, unusual_rows
from unfreeze.adapting.signs import Reader, Signs, balanced_accuracy, scarcest
from unfreeze.adapting.trying import try_methods
from unfreeze.progress import Silent
from unfreeze.runtime.labels import Labels

MOVED = {"shift": 8.0, "scale": 2.0}
NAMES = {1: "one", 2: "two", 3: "three"}
COLLAPSED = Signs((0.97, 0.03), 0.2, 0.97, 0.75, 0.01, 0.98, 0.5)
MENDED = Signs((0.55, 0.45), 1.0, 0.9, 0.9, 0.3, 0.95, 0.75)
SOUND = Signs((0.55, 0.45), 1.0, 0.8, 0.8, 0.2, 0.9, 0.72)
FAR = Shift(1.0, 1.0, {"a": 1.0}, {"a": 1.0}, (0.8, 0.9), (0.9, 0.8))
NEAR = Shift(0.7, 0.52, {"a": 0.1}, {"a": 1.0}, (0.9, 0.9), (0.8, 0.8))


def judge(scene, before, after, *, change=(0.0, 0.01), agreement=None):
    return refuse(before, after, scene=scene, change=change, agreement=agreement)


def candidate(signs=MENDED, **settings):
    given = {"method": "norm", "source_change": 0.0, "source_error": 0.01, "agreement": 0.9, "answered": None}
    return Candidate(signs=signs, refused=(), **(given | settings))


def test_a_collapse_that_is_mended_is_accepted_and_one_that_is_not_refused(domains):
    scene = domains().scene
    assert has_collapsed(COLLAPSED, MENDED, scene)
    assert judge(scene, COLLAPSED, MENDED) == ()
    assert any("reverse" in one for one in judge(scene, COLLAPSED, replace(MENDED, reverse=0.55)))
    assert any("clusters" in one for one in judge(scene, COLLAPSED, replace(MENDED, ami=0.0)))
    assert any("spread" in one for one in judge(scene, COLLAPSED, replace(MENDED, evenness=0.1)))


def test_an_uneven_target_that_the_source_understands_has_not_collapsed(domains):
    scene = domains().scene
    uneven = replace(COLLAPSED, evenness=0.6, reverse=0.70)
    assert not has_collapsed(uneven, MENDED, scene)
    assert any("class shares look changed" in one for one in judge(scene, uneven, MENDED))


BETTER = replace(MENDED, reverse=0.8, transported=0.8)
FALLS = {"nuclear": 0.79, "ami": 0.1, "estimate": 0.8}


@pytest.mark.parametrize("sign", FALLS)
def test_a_mild_gain_is_believed_when_most_signs_without_labels_rise(domains, sign):
    scene, before = domains().scene, replace(SOUND, transported=0.72)
    assert judge(scene, before, BETTER) == ()
    assert judge(scene, before, replace(BETTER, **{sign: FALLS[sign]})) == ()
    others = {name: value for name, value in FALLS.items() if name != sign}
    assert len(judge(scene, before, replace(BETTER, **others))) == 2
    (problem,) = judge(scene, before, BETTER, agreement=(0.9, 0.8))
    assert "halves" in problem


@pytest.mark.parametrize(
    ("reverse", "transported", "taken"),
    [(0.03, 0.03, True), (0.0, 0.07, True), (0.07, -0.005, True), (-0.02, 0.3, False), (0.02, 0.02, False)],
)
def test_a_mild_gain_shows_on_labelled_rows(domains, reverse, transported, taken):
    scene, before = domains().scene, replace(SOUND, transported=0.72)
    after = replace(BETTER, reverse=0.721 + reverse, transported=0.721 + transported)
    assert (judge(scene, before, after) == ()) is taken


@pytest.mark.parametrize(
    ("sign", "borne", "refused", "told"),
    [
        # Four fifths of one class, then of the other: as evenly spread as before.
        ("displaced", 0.45, 0.6, "60% of the answers displaced"),
        ("scarcest", 0.05, 0.02, "a class has 2% of the answers"),
    ],
)
def test_answers_that_have_changed_sides_or_lack_a_class_are_other_shares(
    domains, sign, borne, refused, told
):
    scene = domains().scene
    before = replace(SOUND, transported=0.72, **{sign: borne})
    assert judge(scene, before, BETTER) == ()
    (problem,) = judge(scene, replace(before, **{sign: refused}), BETTER)
    assert told in problem


def test_answers_may_not_collapse_where_they_had_not(domains):
    scene = domains().scene
    before = replace(SOUND, transported=0.72)
    assert judge(scene, before, replace(BETTER, evenness=0.81)) == ()
    (problem,) = judge(scene, before, replace(BETTER, evenness=0.0))
    assert "would collapse (spread 0.00 of the source's, 1.00 before)" in problem


def test_the_scarcest_class_is_looked_for_where_there_are_rows_enough():
    usual = np.array([0.5, 0.45, 0.05])
    assert scarcest(np.array([0.6, 0.4, 0.0]), usual, rows=200) == 0
    assert scarcest(np.array([0.6, 0.4, 0.0]), usual, rows=100) == pytest.approx(0.4 / 0.45)
    assert scarcest(np.array([0.0, 0.0, 1.0]), usual, rows=10) == 1


def test_displaced_answers_are_counted(domains):
    # Shares of one half, then of nine tenths.
    found = domains(rows=2000, target_rows=2000, share=0.9)
    assert Reader(found.scene).before().displaced == pytest.approx(0.4, abs=0.1)


def test_a_changed_network_is_judged_by_what_its_answers_teach(domains):
    scene = domains().scene
    # The source's rows have not been through the changed network.
    unread = replace(BETTER, transported=None)
    assert judge(scene, replace(SOUND, transported=0.72), unread) == ()
    (problem,) = judge(scene, replace(SOUND, transported=0.72), replace(unread, reverse=0.74))
    assert "teach" in problem


def test_validation_rows_carried_to_the_target_tell_what_is_lost_there(domains):
    found = domains(shift=2.0, rows=600, target_rows=600)
    before = Reader(found.scene).before()
    # No label of the target is in it, and it says what they would.
    assert before.transported == pytest.approx(balanced_accuracy(found.y, found.answers), abs=0.06)
    assert (
        before.transported
        < 0.75
        < 0.85
        < balanced_accuracy(found.scene.val.y, found.scene.val_answers.argmax(axis=1))
    )


def test_a_source_that_gets_worse_is_not_paid_for_the_target(domains):
    scene = domains().scene
    assert any("on the source" in one for one in judge(scene, COLLAPSED, MENDED, change=(-0.2, 0.02)))
    # Within what chance explains, and the margin.
    assert judge(scene, COLLAPSED, MENDED, change=(-0.07, 0.02)) == ()


def test_without_the_source_nothing_is_adapted(domains):
    scene = domains(source=False).scene
    blind = replace(SOUND, reverse=None, estimate=None)
    assert "cannot be checked" in judge(scene, blind, replace(MENDED, reverse=None), change=None)[0]


def test_verdicts(domains):
    scene = domains().scene
    taken = decide(scene, FAR, COLLAPSED, [candidate()], rows=300)
    assert (taken.kind, taken.method) == ("adapted", "norm")
    assert decide(scene, NEAR, SOUND, [candidate()], rows=300).kind == "kept source"
    flat = replace(FAR, spread={"a": 0.2, "b": 0.3})
    unlike = decide(scene, flat, COLLAPSED, [candidate()], rows=300)
    assert unlike.kind == "needs labels"
    assert any("hardly differ" in reason for reason in unlike.reasons)
    assert "vary by 0.24 of the source's deviations, 0.4 is the least" in unlike.against
    few = decide(scene, FAR, SOUND, [candidate()], rows=20)
    assert few.kind == "kept source"
    assert few.reasons == (few.against,)
    assert "20 target rows are too few" in few.against
    near = decide(scene, NEAR, SOUND, [candidate()], rows=300).against
    assert near.startswith(
        "apart from class shares, the target looks like the source (AUC 0.52, less than 0.6)"
    )
    assert taken.against is None
    refused = replace(candidate(), refused=("it is worse",))
    failing = decide(scene, FAR, COLLAPSED, [refused], rows=300)
    assert failing.kind == "needs labels"
    assert any("it is worse" in reason for reason in failing.reasons)
    assert decide(scene, FAR, SOUND, [refused], rows=300).kind == "kept source"
    assert decide(scene, FAR, replace(SOUND, estimate=0.5), [refused], rows=300).kind == "needs labels"


def test_of_several_the_one_that_fits_the_clusters_best_is_taken(domains):
    scene = domains().scene
    several = [candidate(), candidate(replace(MENDED, ami=0.6), method="self-training")]
    assert decide(scene, FAR, COLLAPSED, several, rows=300).method == "self-training"


def test_given_labels_decide_before_all_signs(domains):
    scene = replace(domains().scene, asked=np.arange(20), answers=np.zeros(20, dtype=np.intp))
    helps = candidate(answered=(0.3, 0.1))
    assert decide(scene, NEAR, SOUND, [replace(helps, refused=("signs",))], rows=300).kind == "adapted"
    assert decide(scene, FAR, COLLAPSED, [candidate(answered=(0.02, 0.1))], rows=300).kind == "kept source"
    assert decide(scene, NEAR, SOUND, [helps], rows=300).labels == 20
    assert decide(domains().scene, FAR, COLLAPSED, [candidate()], rows=300).labels == 0


@pytest.mark.parametrize("count", [10, 20, 100])
@pytest.mark.parametrize("methods", [1, 5])
def test_labels_seldom_take_a_method_that_changes_nothing(domains, count, methods):
    scene = replace(domains().scene, asked=np.arange(count), answers=np.zeros(count, dtype=np.intp))
    chance, taken, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        before = chance.random(count) < 0.5
        # Every answer is given anew, and is right as often as before.
        tried = [
            candidate(answered=paired(before, chance.random(count) < 0.5), method=f"method {place}")
            for place in range(methods)
        ]
        taken += decide(scene, FAR, SOUND, tried, rows=300).kind == "adapted"
    assert taken / runs < 0.07


@pytest.mark.parametrize(("count", "methods", "won"), [(10, 1, 4), (10, 5, 5), (100, 1, 4), (100, 5, 7)])
def test_labels_take_what_gains_beyond_chance_for_the_methods_tried(domains, count, methods, won):
    scene = replace(domains().scene, asked=np.arange(count), answers=np.zeros(count, dtype=np.intp))

    def gains(rows):
        return paired(np.zeros(count, dtype=bool), np.arange(count) < rows)

    others = [candidate(answered=gains(0), method=f"method {place}") for place in range(1, methods)]
    for more, kind in ((0, "adapted"), (-1, "kept source")):
        found = decide(scene, FAR, SOUND, [*others, candidate(answered=gains(won + more))], rows=300)
        assert found.kind == kind
        assert "with norm" in found.reasons[0]
        assert f"{'1 method is' if methods == 1 else '5 methods are'} tried" in found.reasons[0]


def test_a_larger_gain_that_chance_explains_does_not_hide_a_sure_one(domains):
    scene = replace(domains().scene, asked=np.arange(20), answers=np.zeros(20, dtype=np.intp))
    tried = [candidate(answered=(0.3, 0.2)), candidate(answered=(0.25, 0.05), method="align")]
    assert decide(scene, FAR, SOUND, tried, rows=300).method == "align"


@pytest.mark.parametrize(
    ("given", "told"), [(1, "1 label is fewer than"), (6, "6 labels are fewer than the 10")]
)
@pytest.mark.parametrize("before", [COLLAPSED, SOUND])
def test_fewer_labels_than_can_decide_are_said_to_be(domains, given, told, before):
    scene = replace(domains().scene, asked=np.arange(given), answers=np.zeros(given, dtype=np.intp))
    for shift in (FAR, NEAR):
        found = decide(scene, shift, before, [candidate()], rows=300)
        assert told in found.reasons[-1]
        assert found.labels == 0


def test_of_steps_the_newest_one_must_have_rows_enough(domains):
    steps = {count: np.repeat([0, 1], [300 - count, count]) for count in (5, 50)}
    scene = domains().scene
    few, enough = (
        decide(replace(scene, order=steps[count]), FAR, COLLAPSED, [candidate()], rows=300) for count in steps
    )
    assert "5 target rows are too few" in few.against
    assert enough.kind == "adapted"


@pytest.mark.parametrize(("classes", "few", "enough"), [(2, 19, 20), (10, 49, 50), (80, 79, 80)])
def test_a_few_answers_of_one_class_are_no_sign_that_the_model_fails(domains, classes, few, enough):
    scene = domains().scene
    named = Labels(tuple(map(str, range(classes))))
    scene = replace(scene, classifier=replace(scene.classifier, labels=named))
    one = replace(COLLAPSED, evenness=0.0)
    refused = replace(candidate(), refused=("it is worse",))
    kept, failing = (decide(scene, FAR, one, [refused], rows=rows) for rows in (few, enough))
    assert kept.kind == "kept source"
    assert failing.kind == "needs labels"


@pytest.mark.parametrize("source", [True, False])
def test_a_target_of_one_row_is_kept_without_a_warning(domains, source):
    found = domains(target_rows=1, source=source)
    before, shift, reader = measured(found)
    trials, _ = try_methods(found.scene, ("norm", "self-training"), before, reader, Silent())
    verdict = decide(found.scene, shift, before, [one.candidate for one in trials], rows=1)
    assert (verdict.kind, verdict.reasons) == (
        "kept source",
        ("1 target row is too few to adapt to (50 is the least)",),
    )


def test_skill_is_counted_from_chance():
    assert skill(0.5, 2) == 0.0
    assert skill(0.75, 2) == pytest.approx(0.5)
    assert skill(0.1, 10) == pytest.approx(0.0)
    assert skill(0.3, 2) == 0.0


def test_a_paired_difference_has_the_error_of_what_changed():
    before, after = np.zeros(100, dtype=bool), np.zeros(100, dtype=bool)
    before[:50], after[:50] = True, True
    mean, error = paired(before, after)
    assert mean == 0.0
    assert error == pytest.approx(np.sqrt(2) / 100)
    after[50:60] = True
    mean, error = paired(before, after)
    assert mean == pytest.approx(0.1)
    assert 0.02 < error < 0.05


def test_balanced_accuracy_counts_classes_that_are_there():
    y = np.array([0, 0, 0, 2])
    assert balanced_accuracy(y, np.array([0, 0, 1, 2])) == pytest.approx((2 / 3 + 1) / 2)


def measured(found):
    reader = Reader(found.scene)
    before = reader.before()
    return before, measure_shift(reader, before, NAMES), reader


def test_the_same_domain_looks_the_same_and_a_moved_one_does_not(domains):
    before, shift, _ = measured(domains(target_rows=600, rows=600))
    assert shift.alike
    assert abs(shift.separability - 0.5) < 0.1
    assert before.estimate == pytest.approx(domains().before, abs=0.12)
    _, moved, _ = measured(domains(**MOVED))
    assert not moved.alike
    assert moved.moved["three"] > 1
    assert moved.spread["three"] == pytest.approx(2.0, rel=0.15)


def test_without_the_source_answers_are_uneven_beside_equal_shares(domains):
    alike, moved = (domains(source=False, **settings) for settings in ({}, MOVED))
    for found, kind in ((alike, "kept source"), (moved, "needs labels")):
        before = Reader(found.scene).before()
        assert 0 <= before.evenness <= 1
        assert judged(found.scene, ("self-training",))[2].kind == kind


def test_other_class_shares_alone_are_no_other_domain(domains):
    _, shift, _ = measured(domains(share=0.9, rows=800, target_rows=800))
    assert shift.within_classes < shift.separability - 0.05
    assert shift.alike


def test_class_shares_are_told_beside_those_of_the_source(domains):
    before, shift, _ = measured(domains(share=0.95, rows=800, target_rows=800))
    share = shift.source_shares[1]
    assert share == pytest.approx(np.mean(domains(rows=800).scene.val_answers.argmax(axis=1)))
    told = " ".join(describe_shift(shift, before, ("no", "yes")))
    assert (
        f"calls {before.shares[1]:.0%} of the target 'yes', {share:.0%} of the source's validation rows."
        in told
    )
    assert f"{before.displaced:.0%} of the answers would have to be others" in told
    assert f"'no' has {before.scarcest:.0%} of the answers that the source's shares give it" in told
    before, shift, _ = measured(domains())
    told = " ".join(describe_shift(shift, before, ("no", "yes")))
    assert "would have to be others" not in told
    assert "shares give it" not in told


def test_a_moved_domain_is_adapted_to_and_an_unchanged_one_kept(domains):
    for found, wanted in ((domains(**MOVED), "adapted"), (domains(), "kept source")):
        before, shift, reader = measured(found)
        trials, missing = try_methods(
            found.scene, ("norm", "align", "self-training", "gradual"), before, reader, Silent()
        )
        assert list(missing) == ["gradual"]
        verdict = decide(found.scene, shift, before, [one.candidate for one in trials], rows=300)
        assert verdict.kind == wanted, verdict.reasons
        if wanted == "adapted":
            proposal = next(one.proposal for one in trials if one.proposal.method == verdict.method)
            assert found.accuracy(proposal.logits) > found.before + 0.2


def test_of_a_target_in_steps_the_newest_one_counts(domains):
    early, late = domains(seed=1), domains(**MOVED, seed=2)
    whole = Reader(in_steps(early, late)).before()
    newest = Reader(replace(early.scene, target=late.scene.target)).before()
    assert whole == newest


def in_steps(*parts):
    """The parts' targets one after the other, as steps of a change that the first one's source meets."""
    target = {b: np.concatenate([part.scene.target[b] for part in parts]) for b in parts[0].scene.target}
    order = np.repeat(np.arange(len(parts)), [part.scene.rows for part in parts])
    return replace(parts[0].scene, target=target, order=order)


def judged(scene, methods):
    reader = Reader(scene)
    before = reader.before()
    shift = measure_shift(reader, before, NAMES)
    trials, _ = try_methods(scene, methods, before, reader, Silent())
    found = [one.candidate for one in trials]
    return shift, found, decide(scene, shift, before, found, rows=scene.rows)


def test_shift_agreement_and_signs_of_a_target_in_steps_are_those_of_its_newest(domains):
    early, late = domains(), domains(shift=1.0, seed=2)
    scene, alone = in_steps(early, early, early, late), replace(early.scene, target=late.scene.target)
    methods = ("norm", "align", "self-training")
    assert any(one.agreement is not None for one in judged(alone, methods)[1])
    assert judged(scene, methods) == judged(alone, methods)


def test_a_newest_step_that_has_moved_is_not_hidden_by_those_before_it(domains):
    steps = [domains(target_rows=100, seed=seed) for seed in range(9)]
    scene = in_steps(*steps, domains(target_rows=100, shift=2.0, seed=9))
    shift, _, verdict = judged(scene, ("norm", "gradual"))
    assert not shift.alike
    assert shift.within_classes > 0.9
    assert verdict.against is None


def test_given_labels_are_scored_on_rows_that_were_held_out(domains):
    found = domains(**MOVED)
    scene = replace(found.scene, asked=np.arange(30), answers=found.y[:30])
    reader = Reader(scene)
    before = reader.before()
    trials, _ = try_methods(scene, ("self-training",), before, reader, Silent())
    gain, error = trials[0].candidate.answered
    assert gain > error > 0


def test_the_farthest_rows_are_named_first(domains):
    found = domains()
    found.scene.target[3][17] += 50
    assert unusual_rows(found.scene)[0] == 17
    alone = domains(source=False)
    alone.scene.target[3][5] += 50
    assert unusual_rows(alone.scene)[0] == 5
