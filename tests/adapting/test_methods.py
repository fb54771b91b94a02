"""What each method makes of a target that has moved, and of one that cannot be adapted to."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from unfreeze.adapting import scenery
from unfreeze.adapting.depths import depths_of, fit_joined
from unfreeze.adapting.halves import halves
from unfreeze.adapting.methods import METHODS, SOUND, sound_for
from unfreeze.adapting.methods.labels import label_weight
from unfreeze.adapting.methods.self_training import align, choose_labels
from unfreeze.adapting.moments import Moments, carried, moments_of
from unfreeze.adapting.scene import NotPossibleError
from unfreeze.heads.head import Head

MOVED = {"shift": 8.0, "scale": 2.0}


def test_a_carried_head_answers_the_new_domain_as_the_known_one(domains):
    scene = domains(**MOVED).scene
    known, new = moments_of({3: scene.train.features[3]}), moments_of({3: scene.target[3]})
    chance = np.random.default_rng(0)
    for head in (
        scene.classifier.head,
        Head(
            kind="mlp",
            boundaries=(3,),
            tensors={
                "hidden.weight": chance.normal(size=(5, 10)).astype(np.float32),
                "hidden.bias": chance.normal(size=5).astype(np.float32),
                "weight": chance.normal(size=(2, 5)).astype(np.float32),
                "bias": chance.normal(size=2).astype(np.float32),
            },
        ),
    ):
        standard = new.standardise({3: scene.target[3]})[3]
        as_known = (standard / known.inverse[3] + known.mean[3]).astype(np.float32)
        got = carried(head, known=known, new=new).logits(scene.target[3])
        assert np.abs(got - head.logits(as_known)).max() < 1e-3


def test_a_feature_that_never_varied_stays_what_it_was():
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    rows[:, 1] = 7.0
    known = moments_of({1: rows})
    assert known.inverse[1][1] == 0.0
    head = Head(kind="linear", boundaries=(1,), tensors={"weight": np.ones((2, 3)), "bias": np.zeros(2)})
    got = carried(head, known=known, new=known).logits(rows)
    assert np.abs(got - head.logits(rows)).max() < 1e-4


def test_a_rule_is_the_same_head_on_raw_features(domains):
    scene = domains().scene
    moments = moments_of(scene.train.features)
    read = moments.standardise(scene.train.features)
    rule = depths_of([read], classes=2).fit(scene.train.y, np.ones(len(scene.train.y)))
    head = rule.head(moments)
    assert head.boundaries == (1, 2, 3)
    raw = np.concatenate([scene.target[b] for b in head.boundaries], axis=1)
    assert np.abs(head.logits(raw) - rule.logits(moments.standardise(scene.target))).max() < 1e-4


def test_a_row_without_weight_takes_no_part_and_classes_weigh_alike(domains):
    scene = domains().scene
    read = moments_of(scene.train.features).standardise(scene.train.features)
    y, depths = scene.train.y, depths_of([read], classes=2)
    some = np.random.default_rng(1).random(len(y)) < 0.5
    flipped = np.where(some, y, 1 - y)
    one, other = (depths.fit(labels, some.astype(float)) for labels in (y, flipped))
    assert np.allclose(one.bias, other.bias, atol=1e-6)
    # Ten times the weight on a class changes nothing: each class counts as a whole.
    heavy = depths.fit(y, np.where(y == 1, 10.0, 1.0))
    assert np.allclose(heavy.bias, depths.fit(y, np.ones(len(y))).bias, atol=1e-3)


def test_alignment_meets_the_shares_half_way():
    answers = np.random.default_rng(0).dirichlet((8, 1, 1), size=500)
    prior = np.array([0.2, 0.3, 0.5])
    got = align(answers, prior)
    assert np.allclose(got.mean(axis=0), (answers.mean(axis=0) + prior) / 2, atol=1e-3)
    assert np.allclose(got.sum(axis=1), 1)


def test_each_class_keeps_its_own_most_confident_answers():
    answers = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.45, 0.55], [0.4, 0.6]])
    labels, chosen = choose_labels(answers, share=0.5)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert chosen.tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize("method", SOUND[:3])
def test_a_target_that_has_moved_is_won_back(domains, method):
    found = domains(**MOVED)
    assert found.before < 0.65
    proposal = METHODS[method](found.scene)
    assert found.accuracy(proposal.logits) > 0.8
    head = proposal.head
    raw = np.concatenate([found.scene.target[b] for b in head.boundaries], axis=1)
    assert np.abs(head.logits(raw) - proposal.logits).max() < 1e-3
    # Read in its own units the source is answered as well as before.
    assert (proposal.val_logits.argmax(axis=1) == found.scene.val.y).mean() > 0.75


def test_a_fixed_threshold_learns_the_mistakes_of_a_collapsed_source(domains):
    found = domains(**MOVED)
    assert found.accuracy(METHODS["pseudo-label"](found.scene).logits) < 0.7


def test_small_steps_follow_a_change_that_is_too_large_at_once(domains):
    parts = [domains(shift=shift, seed=10 * place) for place, shift in enumerate((0.7, 1.4, 2.1, 2.8))]
    first = parts[0].scene
    target = {b: np.concatenate([part.scene.target[b] for part in parts]) for b in first.target}
    order = np.repeat(np.arange(4), 300)
    scene = replace(first, target=target, order=order)
    proposal = METHODS["gradual"](scene)
    assert parts[3].accuracy(proposal.logits[order == 3]) > 0.8
    assert parts[3].before < 0.65


@pytest.mark.parametrize(
    ("method", "source"),
    [
        *((method, True) for method in ("norm", "align", "self-training", "labels")),
        ("norm", False),
        ("self-training", False),
    ],
)
def test_of_a_target_in_steps_the_newest_alone_gives_the_units(domains, method, source):
    early, late = domains(source=source), domains(shift=2.0, seed=2)
    asked = {"asked": np.arange(20), "answers": late.y[:20]}
    alone = replace(early.scene, target=late.scene.target, **asked)
    target = {b: np.concatenate([early.scene.target[b], block]) for b, block in late.scene.target.items()}
    order = np.repeat([0, 1], 300)
    scene = replace(alone, target=target, order=order, asked=300 + asked["asked"])
    # Statistics and varied views are of all rows, as build_scenery gives them.
    fresh, views = ({b: block + more for b, block in target.items()} for more in (1, 0.1))
    scene = replace(scene, restated=lambda: ("network", fresh), strong=lambda: views)
    alone = replace(
        alone,
        restated=lambda: ("network", {b: block[300:] for b, block in fresh.items()}),
        strong=lambda: {b: block[300:] for b, block in views.items()},
    )
    one, other = (METHODS[method](part) for part in (scene, alone))
    np.testing.assert_allclose(one.logits[300:], other.logits, atol=1e-4)
    np.testing.assert_allclose(one.head.tensors["weight"], other.head.tensors["weight"], atol=1e-5)
    assert len(one.logits) == 600


def test_labels_that_a_person_gave_are_kept(domains):
    found = domains(**MOVED)
    wrong = 1 - found.y[:40]
    asked = np.arange(40)
    scene = replace(found.scene, asked=asked, answers=wrong)
    plain, told = (METHODS["self-training"](one).logits for one in (found.scene, scene))
    moved = (told[:40].argmax(axis=1) == wrong).mean() - (plain[:40].argmax(axis=1) == wrong).mean()
    assert moved > 0.3


def test_labels_alone_correct_what_the_source_says(domains):
    found = domains(**MOVED)
    asked = np.arange(40)
    right, wrong = (
        METHODS["labels"](replace(found.scene, asked=asked, answers=answers)).logits
        for answers in (found.y[:40], 1 - found.y[:40])
    )
    assert found.accuracy(right) > max(0.85, found.before + 0.2)
    assert found.accuracy(right) > found.accuracy(wrong) + 0.1


def test_what_is_not_labelled_is_not_learnt_from(domains):
    found = domains(**MOVED)
    scene = replace(found.scene, asked=np.arange(40), answers=found.y[:40])
    head = METHODS["labels"](scene).head
    # Other units would show; other rows of the same units do not.
    swapped = {
        boundary: np.concatenate([block[:40], block[40:][::-1]]) for boundary, block in scene.target.items()
    }
    again = METHODS["labels"](replace(scene, target=swapped)).head
    np.testing.assert_allclose(again.tensors["weight"], head.tensors["weight"], atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "beside", "weight"), [(5, 1000, 10.0), (500, 1000, 2.0), (100, 1000, 10.0), (500, 100, 1.0)]
)
def test_labels_weigh_no_more_than_the_source_while_they_are_fewer(labels, beside, weight):
    assert label_weight(labels, beside=beside) == weight


def test_labels_are_tried_where_there_are_some(domains):
    scene = domains().scene
    assert sound_for(scene) == SOUND
    assert sound_for(replace(scene, asked=np.arange(3))) == (*SOUND, "labels")
    with pytest.raises(NotPossibleError, match="--target-labels"):
        METHODS["labels"](scene)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_from_half_of_the_source(domains, method):
    found = domains(shift=1.0, order=np.repeat([0, 1], 150))
    views = {b: block + 1 for b, block in found.scene.train.features.items()}
    asked = {"asked": np.arange(150, 170), "answers": found.y[150:170]}
    scene = replace(found.scene, strong_train=lambda: views, strong=lambda: found.scene.target, **asked)
    one, other = halves(scene)
    proposals = [METHODS[method](part) for part in (one, other)]
    assert all(found.accuracy(proposal.logits) > 0.7 for proposal in proposals)
    # Learnt from other rows.
    assert not np.array_equal(proposals[0].logits, proposals[1].logits)


def test_each_half_of_the_source_holds_its_classes_and_the_views_of_its_own_rows(domains):
    found = domains()
    views = {b: block + 1 for b, block in found.scene.train.features.items()}
    parts = halves(replace(found.scene, strong_train=lambda: views))
    assert sum(len(part.train.y) for part in parts) == len(found.scene.train.y)
    for part in parts:
        assert np.bincount(part.train.y, minlength=2).min() > 50
        for boundary, block in part.strong_train().items():
            np.testing.assert_array_equal(block, part.train.features[boundary] + 1)
    assert halves(found.scene)[0].strong_train is None


def test_varied_views_are_learnt_from_with_the_label_of_the_plain_one(domains):
    found = domains(**MOVED)
    seen = []

    def strong():
        seen.append(True)
        return {b: block + 0.1 for b, block in found.scene.target.items()}

    with_views = METHODS["self-training"](replace(found.scene, strong=strong))
    assert seen == [True]
    assert found.accuracy(with_views.logits) > 0.8


def test_without_the_source_only_what_needs_none_is_proposed(domains):
    found = domains(**MOVED, source=False)
    for method in ("norm", "align", "strong"):
        with pytest.raises(NotPossibleError):
            METHODS[method](found.scene)
    proposal = METHODS["self-training"](found.scene)
    assert proposal.val_logits is None
    assert "not at hand" in proposal.notes[0]


def test_an_order_is_needed_for_small_steps(domains):
    with pytest.raises(NotPossibleError, match="--order-column"):
        METHODS["gradual"](domains().scene)
    with pytest.raises(NotPossibleError, match="one step"):
        METHODS["gradual"](domains(order=np.zeros(300, dtype=np.intp)).scene)


def test_a_threshold_that_no_answer_reaches_proposes_nothing(domains):
    with pytest.raises(NotPossibleError, match="as confident"):
        METHODS["pseudo-label"](replace(domains().scene, threshold=1.1))


ROWS = 300


class Rereads:
    """A network whose statistics are restated on the source, and the features that its rows have then."""

    def __init__(self, features):
        self.features, self.asked = features, []

    def restated(self, material, rows):
        assert len(rows) == ROWS
        self.asked.append(material)
        return "restated"

    def features_in(self, changed, boundaries, dataset, rows, what):
        assert (changed, boundaries) == ("restated", (3,))
        return {3: self.features[3][rows]}


def test_statistics_that_are_not_the_source_s_own_are_found_out(domains):
    scene = domains(rows=ROWS).scene
    source = scenery._Source(
        *(scene.train, scene.val, scene.classifier.head),
        *(SimpleNamespace(dataset="source"), np.arange(len(scene.val.y))),
    )
    # Restating them on the source itself changes nothing that matters, or it scatters what the head reads.
    alike = {3: scene.val.features[3] + np.float32(0.01)}
    chance = np.random.default_rng(0)
    scattered = {3: chance.permutation(scene.val.features[3])}
    for features, own in ((alike, True), (scattered, False)):
        passes = Rereads(features)
        assert scenery._keeps_own_statistics(passes, source) is own
        assert passes.asked == [source.material]


class Stands:
    """Parts of a source as they stand."""

    seed = 0

    def __init__(self, train, val):
        self.parts = {"train": train, "val": val}
        self.label = np.concatenate([train.y, val.y])

    def rows(self, part):
        return np.flatnonzero(
            np.repeat([part == name for name in self.parts], [len(one.y) for one in self.parts.values()])
        )

    def features(self, dataset, rows, what):
        blocks = np.concatenate([one.features[3] for one in self.parts.values()])
        return SimpleNamespace(arrays={3: blocks[rows]}, rows=rows)

    def groups_of(self, rows):
        return (rows % 7).astype(np.int32)

    def material(self, dataset, passed):
        return None


def test_both_parts_of_the_source_keep_their_groups(domains):
    scene = domains(rows=60).scene
    stands = Stands(scene.train, scene.val)
    known = scenery._known(stands, stands, scene.classifier, None, seen=False)
    assert known.train.groups.tolist() == [row % 7 for row in range(60)]
    assert known.val.groups.tolist() == [row % 7 for row in range(60, 260)]


def test_a_head_that_has_seen_the_validation_rows_does_not_judge_by_them(domains):
    scene = domains(rows=60).scene
    given = Stands(scene.train, scene.val)
    swapped = Stands(scene.train, replace(scene.val, y=1 - scene.val.y))
    kept, fitted, other = (
        scenery._known(one, one, scene.classifier, None, seen=seen).head
        for one, seen in ((given, False), (given, True), (swapped, True))
    )
    assert kept is scene.classifier.head
    assert fitted is not kept
    np.testing.assert_array_equal(fitted.tensors["weight"], other.tensors["weight"])


def test_what_the_source_loses_is_told_by_heads_that_have_not_seen_its_validation_rows(domains):
    scene = domains(rows=40).scene
    # The classifier as it is knows these rows by heart, and a target that is the source changes nothing.
    classifier = replace(scene.classifier, head=fitted_to(scene.val))
    scene = replace(scene, target=scene.train.features, unseen=scene.classifier.head, classifier=classifier)
    before, after = scenery.Scenery(scene, np.arange(40), None).accuracy_on_source(METHODS["norm"](scene))
    assert before == after
    known = METHODS["norm"](replace(scene, unseen=None))
    assert scenery.Scenery(scene, np.arange(40), None).accuracy_on_source(known)[1] > before


def fitted_to(known):
    """A head that has learnt from these rows alone."""
    rule = fit_joined([known.features], (3,), known.y, np.ones(len(known.y)), classes=2)
    return rule.head(Moments({3: np.zeros(10)}, {3: np.ones(10)}))


def test_where_they_are_not_norm_moves_the_head_s_inputs_alone(domains):
    shifted = domains(shift=2.0)
    plain = METHODS["norm"](shifted.scene)
    kept = METHODS["norm"](replace(shifted.scene, restated=lambda: None))
    assert kept.backbone is None
    assert kept.notes == plain.notes
    np.testing.assert_array_equal(kept.logits, plain.logits)
    other = {3: shifted.scene.target[3][::-1].copy()}
    restated = METHODS["norm"](replace(shifted.scene, restated=lambda: ("network", other)))
    assert restated.backbone == "network"
    assert not np.array_equal(restated.logits, plain.logits)
