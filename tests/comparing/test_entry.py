"""How strategies with settings of their own are written."""

import runpy
from pathlib import Path

import pytest

from unfreeze.comparing.entry import Entry, parse_entries, parse_entry
from unfreeze.errors import RequestError


def test_an_entry_is_a_strategy_with_typed_settings():
    entry = parse_entry("lora:rank=16+lr=1e-3+interpolate=true+targets=attention")
    assert entry.strategy == "lora"
    assert entry.settings == {"rank": 16, "lr": 1e-3, "interpolate": True, "targets": "attention"}
    assert parse_entry("full") == Entry("full")


def test_commas_part_entries_but_not_the_layers_of_one():
    entries = parse_entries("full, lora:rank=4+targets=qkv,proj,partial:freeze=2,full")
    assert [entry.name for entry in entries] == ["full", "lora:rank=4+targets=qkv,proj", "partial:freeze=2"]
    assert entries[1].settings["targets"] == "qkv,proj"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ful", ["'ful' is unknown", "Did you mean 'full'"]),
        ("lora:rnk=4", ["'rnk' is no setting", "Did you mean 'rank'"]),
        ("lora:rank=four", ["rank 'four'", "a whole number"]),
        ("full:interpolate=maybe", ["interpolate 'maybe'", "true or false"]),
        ("full:seed=3", ["seed is the same for all"]),
        ("full:test=0.5", ["test is the same for all"]),
        ("full:keep_both=true", ["keep_both is the same for all"]),
        (",", ["names none"]),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text, words):
    with pytest.raises(RequestError) as refused:
        parse_entries(text)
    assert all(word in str(refused.value) for word in words), refused.value
    assert refused.value.exit_status == 2


def test_the_bench_reads_entries_in_the_same_way(monkeypatch):
    folder = Path(__file__).parents[2] / "bench"
    monkeypatch.syspath_prepend(folder)
    assert runpy.run_path(str(folder / "strategies.py"))["parse_entry"] is parse_entry
