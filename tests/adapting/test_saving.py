"""What an adapted classifier promises above its threshold: what its run was asked for, by as much as its rows tell."""

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.adapting.gate import Verdict
from unfreeze.adapting.methods import METHODS
from unfreeze.adapting.request import AdaptRequest
from unfreeze.adapting.saving import _metrics, _settings, classifier_of, wished_precision
from unfreeze.config import write_config
from unfreeze.errors import RequestError


@pytest.fixture
def grouped(domains):
    """A target that has moved, without groups among the source's validation rows and with five of them."""
    scene = domains(shift=8.0, scale=2.0).scene
    together = replace(scene.val, groups=np.arange(len(scene.val.y), dtype=np.int32) // 40)
    return scene, replace(scene, val=together)


def test_the_threshold_reaches_what_the_run_was_asked_for(grouped):
    scene, _ = grouped
    proposal = METHODS["self-training"](scene)
    # Wrong where the proposal is least sure, so that fewer answers are righter.
    unsure = np.abs(np.diff(proposal.val_logits, axis=1)[:, 0]).argsort()[:30]
    y = proposal.val_logits.argmax(axis=1)
    y[unsure] = 1 - y[unsure]
    scene = replace(scene, val=replace(scene.val, y=y))
    low, high = (classifier_of(scene, proposal, wished).threshold for wished in (0.9, 0.97))
    assert low.precision >= 0.9
    assert high.precision >= 0.97
    assert high.coverage < low.coverage
    assert classifier_of(scene, proposal, None).threshold is None


def test_rows_of_a_group_count_for_less_in_the_threshold_and_in_the_scores(grouped):
    alone, together = grouped
    proposal = METHODS["self-training"](alone)
    free, bound = (classifier_of(scene, proposal, 0.9).threshold for scene in grouped)
    assert bound is None or bound.coverage < free.coverage
    narrow, wide = (
        _metrics(classifier_of(scene, proposal, 0.9), proposal, scene)["validation"] for scene in grouped
    )
    assert wide["accuracy_low"] < narrow["accuracy_low"]
    assert together.val.select(np.array([0, 199])).groups.tolist() == [0, 4]


def test_what_a_run_was_asked_for_stands_in_its_settings_and_in_those_of_what_is_made_of_it(tmp_path):
    settings = tmp_path / "config.yaml"
    assert wished_precision(tmp_path) == 0.95
    settings.write_text("seed: 1\n")
    assert wished_precision(tmp_path) == 0.95
    settings.write_text("precision_target: {value: 0.99, origin: user, reason: asked for}\n")
    assert wished_precision(tmp_path) == 0.99
    request = AdaptRequest(run=tmp_path, target=("new",))
    kept = Verdict("kept source", None, ("no method had anything to propose",))
    settings.write_text(write_config(_settings(request, kept, 0.99)))
    assert wished_precision(tmp_path) == 0.99
    settings.write_text("precision_target: 7\n")
    with pytest.raises(RequestError, match="--precision-target 7 is out of range"):
        wished_precision(tmp_path)


@pytest.mark.parametrize(
    ("asked", "taken", "seed", "value", "reason"),
    [
        ("auto", "norm", 0, "norm", "it is surer"),
        ("auto", None, 0, "none", "it is surer"),
        ("align", None, 3, "none", "align was asked for; it is surer"),
        ("align", "align", 3, "align", "align was asked for; it is surer"),
    ],
)
def test_the_settings_name_the_method_that_was_taken_and_why(tmp_path, asked, taken, seed, value, reason):
    request = AdaptRequest(run=tmp_path, target=("new",), method=asked, seed=seed)
    verdict = Verdict("adapted" if taken else "kept source", taken, ("it is surer",))
    method, seeded = _settings(request, verdict, None)
    assert (method.name, method.value, method.origin, method.reason) == (
        "adapt_method",
        value,
        "user" if asked == value else "trial",
        reason,
    )
    assert (seeded.name, seeded.value, seeded.origin) == ("adapt_seed", seed, "user" if seed else "default")
