"""Facts: every number stands in its sentence, and the words follow the number."""

import pytest

from unfreeze.choose.facts import Counts, Distance, Facts, ImageSizes, Machine, Shift, TextLengths, Turning
from unfreeze.choose.likeness import Pairs

COUNTS = Counts(modality="image", train=1_450, val=250, test=300, per_class={"rust": 40, "fine": 1_660})
MACHINE = Machine(device="cpu", processor="Some Processor", cores=2, memory_bytes=5_100_000_000)


def facts(*, counts=COUNTS, sizes=None, pairs=None, distance=None):
    return Facts(
        counts=counts,
        sizes=sizes or ImageSizes(width=300, height=200, smallest=96, largest=4_000, side=224),
        duplicates=pairs or Pairs(count=12, across=3, rows=1_700, total=1_700),
        machine=MACHINE,
        distance=distance
        or Distance(
            probe=0.824,
            neighbours=0.741,
            error=0.0,
            learnt=0.991,
            rows=1_700,
            shift=Shift(early=0.21, late=0.93, norms=49, rows=64),
        ),
        turning=Turning(without=0.812, beside=0.797, error=0.02, rows=128),
    )


def sentence(found, name):
    return next(fact.sentence for fact in found.entries if fact.name == name)


# What each number looks like in words.
SHOWN = {
    "rows": "1,700",
    "classes": "2 classes",
    "least_rows_of_a_class": "40 rows",
    "most_rows_of_a_class": "1,660 rows",
    "imbalance": "41.5 times",
    "image_pixels": "250",
    "near_duplicates": "12 pairs",
    "near_duplicates_across": "3 of them",
    "probe_accuracy": "82.4%",
    "neighbours_accuracy": "74.1%",
    "probe_over_neighbours": "8.3 points above",
    "probe_accuracy_on_its_own_rows": "99.1%",
    "shift_early": "0.21",
    "shift_late": "0.93",
    "with_turned_copies": "79.7% of 128",
    "cores": "2 processor cores",
    "memory_bytes": "5.1 GB",
    "device": "cpu (Some Processor)",
    "modality": "images",
}


def test_every_fact_has_a_sentence_with_its_number():
    found = facts()
    assert {fact.name for fact in found.entries} == set(SHOWN)
    for fact in found.entries:
        assert SHOWN[fact.name] in fact.sentence, fact
        assert fact.sentence[0].isupper() or fact.sentence[0].isdigit()
        assert fact.sentence.endswith(".")


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (0.81, "no harm"),
        (0.8, "no harm"),
        (0.79, "may do"),
        (0.75, "may do"),
        (0.74, "way is up"),
        (0.2, "way is up"),
    ],
)
def test_what_turned_copies_lose_is_told_with_how_well_it_is_known(beside, said):
    turning = Turning(without=0.8, beside=beside, error=0.03, rows=100)
    (fact,) = turning.facts()
    assert said in fact.sentence
    assert turning.harmless == (said == "no harm")


def test_what_decides_about_candidates_is_told_first():
    assert [fact.name for fact in facts().leading] == ["probe_over_neighbours", "with_turned_copies"]


def test_texts_are_told_in_tokens():
    lengths = TextLengths(median=210, longest=4_812, limit=256, cut=0.384)
    found = facts(sizes=lengths)
    assert "210 tokens" in sentence(found, "text_tokens")
    assert "4,812" in sentence(found, "text_tokens")
    assert "256 tokens" in sentence(found, "texts_cut")
    assert "38.4%" in sentence(found, "texts_cut")


def test_the_dictionary_holds_values_and_sentences():
    held = facts().to_dict()
    assert held["rows"] == {"value": 1_700, "sentence": sentence(facts(), "rows")}
    assert held["probe_over_neighbours"]["value"] == pytest.approx(0.083)


@pytest.mark.parametrize(
    ("neighbours", "error", "words"),
    [
        (0.8, 0.02, "is not yours"),
        (0.8, 0.08, "may not be yours, which so few rows cannot tell"),
        (0.88, 0.0, "about as well as that head"),
    ],
)
def test_the_words_on_likeness_follow_the_gap(neighbours, error, words):
    distance = Distance(probe=0.9, neighbours=neighbours, error=error, learnt=0.95, rows=100, shift=None)
    found = facts(distance=distance)
    assert words in sentence(found, "neighbours_accuracy")
    assert "no record" in sentence(found, "shift")


def test_neighbours_that_do_better_are_said_to():
    distance = Distance(probe=0.7, neighbours=0.75, error=0.0, learnt=0.7, rows=100, shift=None)
    assert "5.0 points below" in sentence(facts(distance=distance), "probe_over_neighbours")
    assert "little of that is learnt by heart" in sentence(
        facts(distance=distance), "probe_accuracy_on_its_own_rows"
    )


def test_a_lopsided_data_set_and_a_tiny_class_are_warned_of():
    counts = Counts(modality="text", train=80, val=20, test=10, per_class={"a": 95, "b": 5})
    found = facts(counts=counts)
    assert "balanced accuracy" in sentence(found, "imbalance")
    assert "too few" in sentence(found, "least_rows_of_a_class")
    assert "balanced" not in sentence(
        facts(counts=Counts(modality="text", train=1, val=1, test=1, per_class={"a": 1, "b": 2})), "imbalance"
    )


def test_no_pair_is_said_plainly_and_a_sample_is_named():
    found = facts(pairs=Pairs(count=0, across=0, rows=10_000, total=50_000))
    assert "among 10,000 of 50,000" in sentence(found, "near_duplicates")
    assert "0 such pairs" in sentence(found, "near_duplicates")
    assert "--group-column" not in sentence(found, "near_duplicates_across")
