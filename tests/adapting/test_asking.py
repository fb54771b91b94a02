"""Which rows are asked for: enough, of the newest step, and unlike each other."""

from dataclasses import replace

import numpy as np
import pytest

from unfreeze.adapting.asking import rows_to_label
from unfreeze.adapting.signs import entropy


def ask(scene, rows=None):
    return rows_to_label(scene, scene.probabilities(scene.target), scene.rows if rows is None else rows)


def test_twenty_rows_are_asked_for_each_once(domains):
    found = ask(domains().scene)
    assert len(found) == len(set(found)) == 20


@pytest.mark.filterwarnings("error")
def test_where_few_rows_differ_the_rest_fills_up(domains):
    scene = domains(target_rows=240).scene
    same = {boundary: np.tile(block[:6], (40, 1)) for boundary, block in scene.target.items()}
    found = ask(replace(scene, target=same))
    assert len(found) == len(set(found)) == 20
    # Every content there is is among them.
    assert set(found % 6) == set(range(6))


def test_of_fewer_rows_all_are_asked_for(domains):
    assert sorted(ask(domains(target_rows=12).scene)) == list(range(12))


def test_rows_are_those_of_the_newest_step(domains):
    order = np.repeat([0, 1, 2], [100, 160, 40])
    found = ask(replace(domains().scene, order=order))
    assert len(found) == 20
    assert set(order[found]) == {2}
    order = np.repeat([0, 1], [292, 8])
    assert sorted(ask(replace(domains().scene, order=order))) == list(range(292, 300))


def test_rows_that_are_labelled_already_are_not_asked_for(domains):
    # Named rows stand behind the target's own, and are of the newest step as well.
    order = np.repeat([0, 1], [200, 100])
    found = ask(replace(domains().scene, order=order), rows=290)
    assert found.min() >= 200
    assert found.max() < 290


def test_one_class_alone_has_an_entropy_of_zero_and_not_of_minus_zero():
    assert str(entropy(np.array([1.0, 0.0]))) == "0.0"
    assert entropy(np.array([0.5, 0.5])) == pytest.approx(np.log(2))
