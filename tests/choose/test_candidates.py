"""What is tried: by the backbone's family, the rows, and what the facts say of their distance and their up."""

import json
from dataclasses import replace

import pytest

from unfreeze.choose.candidates import Candidate, list_candidates
from unfreeze.choose.facts import Counts, Distance, Facts, ImageSizes, Machine, Turning
from unfreeze.choose.likeness import Pairs

UPRIGHT = Turning(without=0.9, beside=0.4, error=0.03, rows=100)
FREE = Turning(without=0.88, beside=0.89, error=0.03, rows=100)


def facts(*, neighbours=0.9, turning=None):
    return Facts(
        counts=Counts(modality="image", train=400, val=100, test=100, per_class={"a": 250, "b": 250}),
        sizes=ImageSizes(width=10, height=10, smallest=10, largest=10, side=8),
        duplicates=Pairs(count=0, across=0, rows=500, total=500),
        machine=Machine(device="cpu", processor="Some Processor", cores=2, memory_bytes=10**9),
        distance=Distance(probe=0.9, neighbours=neighbours, error=0.0, learnt=0.9, rows=500, shift=None),
        turning=turning,
    )


def candidates(backbone, known, *, error=0.1, rows=400, trial_rows=200, classes=2, **said):
    return list_candidates(
        backbone,
        rows=rows,
        trial_rows=trial_rows,
        classes=classes,
        floor_error=error,
        facts=known,
        said=said,
    )


@pytest.mark.parametrize(
    ("error", "neighbours", "rank"), [(0.1, 0.9, 8), (0.1, 0.86, 8), (0.2, 0.9, 32), (0.1, 0.84, 32)]
)
@pytest.mark.parametrize("kind", ["vit", "text"])
def test_the_rank_goes_by_the_distance_from_the_pretraining(t, kind, error, neighbours, rank):
    found = candidates(t.toy(kind), facts(neighbours=neighbours), error=error)
    assert [one.changes["rank"] for one in found if one.strategy == "lora"] == [rank]


def test_what_few_rows_say_of_the_distance_is_taken_for_less(t):
    def rank(known, error):
        found = candidates(t.toy("vit"), known, error=error)
        return next(one.changes["rank"] for one in found if one.strategy == "lora")

    many = facts()
    few = replace(many, distance=replace(many.distance, rows=32))
    # Five of 32 rows, and the same share of 500.
    assert (rank(few, 5 / 32), rank(many, 5 / 32)) == (8, 32)
    ahead = replace(many.distance, neighbours=0.84)
    unsure = replace(ahead, error=0.02)
    assert [rank(replace(many, distance=one), 0.1) for one in (ahead, unsure)] == [32, 8]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_turned_pictures_are_trained_on_where_they_do_a_head_no_harm(t, kind):
    without = {one.name for one in candidates(t.toy(kind), facts(turning=UPRIGHT))}
    assert without == {one.name for one in candidates(t.toy(kind), facts())}
    found = {one.name: one for one in candidates(t.toy(kind), facts(turning=FREE))}
    assert set(found) - without == {"full, augment dihedral"}
    told = found["full, augment dihedral"]
    assert "89.0% of 100" in told.reason
    assert told.hope < max(one.hope for one in found.values())


def test_nothing_is_tried_against_an_augmentation_that_was_asked_for(t):
    found = candidates(t.toy("cnn"), facts(turning=FREE), augment="strong")
    assert not any("augment" in one.changes for one in found)
    assert len({one.name for one in found}) == len(found)


@pytest.mark.parametrize(
    ("error", "rows", "trial_rows", "share"),
    [
        # Far from the pretraining half is hoped for at 150 rows: 170 / 320 and 100 / 250 of all.
        (0.2, 170, 100, 0.35 * (170 / 320 - 100 / 250)),
        # Near it nothing at 100 rows, so that trials on as many are behind by all of it.
        (0.1, 200, 100, 0.35 * 200 / 350 * 0.5),
        (0.2, 170, 400, 0.0),
        (0.1, 90, 50, 0.0),
    ],
)
def test_trials_on_fewer_rows_are_behind_by_what_is_hoped_of_more(t, error, rows, trial_rows, share):
    found = candidates(t.toy("cnn"), facts(), error=error, rows=rows, trial_rows=trial_rows)
    named = {one.name: one for one in found}
    assert named["full"].behind == pytest.approx(share)
    assert named["partial"].behind == pytest.approx(0.6 * share)
    again = Candidate.from_dict(json.loads(json.dumps(named["full"].to_dict())))
    assert again.behind == named["full"].behind


def test_trials_of_pairs_are_ahead_since_fewer_texts_gain_more_by_them(t):
    found = candidates(t.toy("text"), facts(), rows=64, trial_rows=38)
    (pairs,) = (one for one in found if one.strategy == "contrastive")
    assert pairs.behind == pytest.approx(0.4 * (32 / 64 - 32 / 38))


@pytest.mark.parametrize("said", [{"interpolate": True}, {"mixup": 0.1}, {"patience": 2}, {"pull": 0.1}])
def test_pairs_are_tried_only_where_they_read_all_that_was_said(t, said):
    found = candidates(t.toy("text"), facts(), rows=32, **said)
    assert any(one.strategy == "contrastive" for one in found) == ("pull" in said)


def test_few_texts_of_a_class_are_tried_in_pairs(t):
    def hope(rows, known):
        found = candidates(t.toy("text"), known, rows=rows)
        return next((one.hope for one in found if one.strategy == "contrastive"), None)

    assert hope(16, facts()) == hope(32, facts()) == 0.4
    assert hope(128, facts()) == pytest.approx(0.1)
    assert hope(129, facts()) is None
    for b, tried in ((200, True), (166, False), (374, True), (376, False)):
        uneven = replace(facts(), counts=replace(facts().counts, per_class={"a": 250, "b": b}))
        assert (hope(64, uneven) is not None) == tried


def test_low_rank_updates_are_tried_where_some_layer_takes_them(t, monkeypatch):
    assert any(one.strategy == "lora" for one in candidates(t.toy("vit"), facts()))
    monkeypatch.setattr("unfreeze.choose.candidates.targetable", lambda backbone: frozenset())
    found = candidates(t.toy("vit"), facts())
    assert found
    assert not any(one.strategy == "lora" for one in found)


def test_low_rank_updates_lead_on_large_transformers_alone(t, monkeypatch):
    def order():
        return [one.name for one in candidates(t.toy("vit"), facts())]

    rest = ["full, rate 6e-05", "partial"]
    assert order() == ["full", "discriminative", "lora, rank 8", *rest]
    monkeypatch.setattr("unfreeze.choose.candidates.LARGE", 100)
    assert order() == ["lora, rank 8", "full", "discriminative", *rest]
    # Turned pictures are no ground to hope for more of full fine-tuning than usual.
    turned = {one.name: one.hope for one in candidates(t.toy("vit"), facts(turning=FREE))}
    assert turned["full, augment dihedral"] < turned["full"]


@pytest.mark.parametrize(("classes", "tried"), [(16, True), (17, False)])
def test_pairs_are_tried_where_a_batch_holds_two_texts_of_every_class(t, classes, tried):
    per_class = {str(number): 8 for number in range(classes)}
    known = replace(facts(), counts=replace(facts().counts, per_class=per_class))
    found = candidates(t.toy("text"), known, rows=8 * classes, classes=classes)
    assert any(one.strategy == "contrastive" for one in found) == tried


@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_of_few_rows_nothing_is_hoped_for_where_the_probe_is_good(t, kind):
    def hope(rows, **known):
        found = candidates(
            t.toy(kind), facts(neighbours=known.get("neighbours", 0.9)), rows=rows, error=known["error"]
        )
        return max(one.hope for one in found if one.strategy != "contrastive")

    assert hope(100, error=0.14) == 0
    assert 0 < hope(120, error=0.14) < hope(200, error=0.14) < hope(2000, error=0.14)
    assert hope(100, error=0.16) == hope(100, error=0.14, neighbours=0.84) == pytest.approx(0.35 * 100 / 250)
    assert hope(120, error=0.16) > hope(120, error=0.14)


@pytest.mark.parametrize("kind", ["cnn", "vit", "text"])
def test_a_candidate_is_what_its_record_says(t, kind):
    for one in candidates(t.toy(kind), facts(turning=FREE), rows=64):
        again = Candidate.from_dict(json.loads(json.dumps(one.to_dict())))
        assert (again.name, again.hope, again.reason) == (one.name, one.hope, one.reason)
        assert dict(again.changes) == dict(one.changes)
