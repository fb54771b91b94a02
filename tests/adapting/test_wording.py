"""What is said of a verdict: who decided, what speaks against each method, and what the columns mean."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from unfreeze.adapting import wording
from unfreeze.adapting.gate import Candidate, Verdict
from unfreeze.adapting.request import AdaptRequest
from unfreeze.adapting.signs import Signs

SIGNS = Signs((1.0, 0.0), 0.0, 0.9, 0.8, 0.2, 0.9, 0.72)


def candidate(method, *, refused=(), answered=None):
    return Candidate(method, SIGNS, 0.0, 0.01, 0.9, answered, refused)


def adaptation(verdict, *candidates):
    return SimpleNamespace(
        verdict=verdict,
        candidates=candidates,
        missing={},
        before=SIGNS,
        rows=80,
        modality="image",
        asked=None,
    )


def test_what_speaks_against_every_method_stands_in_the_table():
    verdict = Verdict("kept source", None, ("20 rows are too few",), against="20 rows are too few")
    rows = wording.refusal_table(
        adaptation(verdict, candidate("norm"), candidate("align", refused=("it is worse",)))
    )
    assert rows.rows == (
        ("every method", "20 rows are too few"),
        ("norm", "only what speaks against every method"),
        ("align", "it is worse"),
    )


def test_one_that_was_not_taken_says_which_was():
    verdict = Verdict("adapted", "norm", ("told",))
    taken, other = wording.refusal_table(adaptation(verdict, candidate("norm"), candidate("align"))).rows
    assert taken == ("norm", "nothing")
    assert "answers of norm fit the clusters of the target better" in other[1]


def test_where_labels_decide_it_is_not_the_signs_that_agree():
    verdict = Verdict("adapted", "norm", ("told",), labels=20)
    one = adaptation(
        verdict, candidate("norm", answered=(0.25, 0.1)), candidate("align", answered=(-0.05, 0.1))
    )
    assert wording.lead(one).startswith("The 20 labelled rows show")
    assert "20 labels decided" in wording.refusal_table(one).columns[1]
    table = wording.sign_table(one)
    assert table.columns[-1] == "on the labels"
    assert [row[-1] for row in table.rows] == ["–", "+25.0", "−5.0"]
    kept = adaptation(Verdict("kept source", None, ("told",), labels=20))
    assert "20 labelled rows do not show" in wording.lead(kept)


def test_without_labels_that_decide_there_is_no_column_for_them():
    one = adaptation(Verdict("adapted", "norm", ("told",)), candidate("norm"))
    assert wording.lead(one).startswith("The signs agree")
    assert "on the labels" not in wording.sign_table(one).columns


def test_reasons_are_sentences_and_methods_keep_their_names():
    told = ("apart from class shares, it is alike", "align: it is worse")
    assert wording.reasons(adaptation(Verdict("kept source", None, told))) == (
        "Apart from class shares, it is alike",
        "align: it is worse",
    )


@pytest.mark.parametrize("shown", [("reverse", "AMI"), ("spread",)])
def test_each_column_that_is_shown_is_explained(shown):
    one = adaptation(Verdict("adapted", "norm", ("told",)), candidate("norm"))
    told = wording.legend(wording.sign_table(one), shown)
    assert told.count(": ") == len(shown)
    assert all(name.lower() in told.lower() for name in shown)


def test_the_command_that_goes_on_is_whole():
    request = AdaptRequest(
        run=Path("runs/cells"),
        target=("one of them", "two"),
        column="mail",
        source="old",
        method="pseudo-label",
        threshold=0.8,
    )
    assert request.again_with(Path("runs/new/to_label/labels.csv")) == (
        "unfreeze adapt runs/cells --target 'one of them' --target two --source old --column mail "
        "--method pseudo-label --threshold 0.8 --target-labels runs/new/to_label/labels.csv"
    )
