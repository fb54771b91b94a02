"""Records as JSON: what would take the machine's memory is refused before it is read."""

import json

import pytest

from unfreeze.runtime import files
from unfreeze.runtime.files import parse_json


@pytest.mark.parametrize("text", ["{},", "[],", '{"a":1},'])
def test_a_record_of_too_many_parts_is_refused(monkeypatch, text):
    monkeypatch.setattr(files, "MOST_PARTS", 10)
    assert len(parse_json(f"[{text * 8}0]")) == 9
    for content in (f"[{text * 10}0]", f"[{text * 10}0]".encode()):
        with pytest.raises(ValueError, match="too many objects and lists"):
            parse_json(content)


def test_nesting_that_cannot_be_followed_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_the_limit_leaves_room_for_the_longest_lists():
    labels = [f"label {number}" for number in range(1_000_000)]
    assert (
        len(parse_json(json.dumps({"labels": labels, "rows": list(range(1_000_000))}))["labels"]) == 1_000_000
    )
