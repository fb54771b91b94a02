"""Backbones ranked by real probes on toy photographs."""

import json

import pytest

from unfreeze.comparing.ranking import Ranked, finished_ranking, rank
from unfreeze.comparing.request import make_request
from unfreeze.comparing.rows import key_rows, read_keys
from unfreeze.comparing.run import compare
from unfreeze.config import TrainRequest
from unfreeze.report.content import Estimate


@pytest.fixture
def call(photos, tmp_path, image_run, opened_once, monkeypatch, plain_torch):
    # The features of these rows are stored there already.
    monkeypatch.setenv("UNFREEZE_CACHE", str(image_run.cache))
    monkeypatch.setattr("unfreeze.comparing.ranking.REPETITIONS", 1)

    def make(names, **said):
        base = TrainRequest(data=str(photos), image_size=64)
        return compare(make_request(base, backbones=names, output_dir=tmp_path / "out", seeds=1, **said))

    return make


def test_two_names_of_one_network_are_tied_and_nothing_is_thawed(call, tmp_path, monkeypatch):
    names = ("efficientnet-lite0", "tf_efficientnet_lite0")
    comparison = call(names)
    first, second = comparison.ranking
    assert comparison.results == ()
    assert not (tmp_path / "out" / "cells").exists()
    assert first.accuracy == second.accuracy
    assert (second.to_best.value, second.to_best.low) == (0.0, -second.to_best.high)
    assert (first.parameters, first.width) == (3_371_008, 320 * 4)
    # Weights and the statistics of the norms in fp32, and a counter of 8 bytes for each norm.
    assert 4 * first.parameters < first.bytes < 4.2 * first.parameters
    assert first.latency_seconds > 0
    assert first.rows_per_second > 0
    assert first.executor == "torch-fp32"
    assert [len(text) for text in first.right] == [24]
    assert len(set(read_keys(*first.rows, rows_hash="", count=24))) == 24
    assert first.rows == second.rows
    assert "rows" not in first.to_dict()
    assert comparison.sentences[0].startswith(
        "The probes on efficientnet-lite0 and tf_efficientnet_lite0 are tied"
    )

    def fail(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr("unfreeze.comparing.run.probe_backbone", fail)
    again = call(names, resume=True)
    assert again.ranking == comparison.ranking


def test_the_most_accurate_comes_first_with_paired_differences():
    def entry(name, right, rows="same"):
        share = right.count("1") / len(right)
        return Ranked(
            backbone=name, state="finished", right=(right,), rows_hash=(rows,), accuracy=Estimate(share)
        )

    found = rank(
        [entry("worse", "1100" * 25), entry("best", "1110" * 25), entry("other rows", "1000" * 25, "other")]
    )
    assert [one.backbone for one in found] == ["best", "worse", "other rows"]
    assert found[0].to_best is None
    assert found[1].to_best.value == pytest.approx(-0.25)
    assert found[1].to_best.high < 0
    assert found[2].to_best is None


def test_seeds_that_hold_out_the_same_rows_are_not_taken_for_as_many_draws():
    def differ(rows):
        entries = [
            Ranked(
                backbone=name,
                state="finished",
                right=(text,) * 4,
                rows_hash=tuple("abcd"),
                rows=rows,
                accuracy=Estimate(text.count("1") / 100),
            )
            for name, text in (("best", "1" * 90 + "0" * 10), ("second", "0" * 10 + "1" * 74 + "0" * 16))
        ]
        found = rank(entries)[1].to_best
        return found.high - found.low

    same = (key_rows([f"row {row}" for row in range(100)]),) * 4
    # Without keys rows of another hash are other rows.
    assert differ(same) == pytest.approx(2 * differ(()), rel=0.02)


def test_a_kept_entry_that_failed_or_is_torn_is_measured_again(tmp_path):
    path = tmp_path / "entry.json"
    assert finished_ranking(path, backbone="x", seeds=1) is None
    path.write_text('{"backbone": "x", "sta')
    assert finished_ranking(path, backbone="x", seeds=1) is None
    path.write_text(json.dumps({"backbone": "x", "state": "failed"}))
    assert finished_ranking(path, backbone="x", seeds=1) is None
