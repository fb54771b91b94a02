"""What the report says of a thawing: curves, precisions, what moved and what was forgotten."""

from dataclasses import replace

from unfreeze.choose.cost import Cost, PhaseCost
from unfreeze.engine.ledger import GroupRecord, PhaseRecord
from unfreeze.engine.task import EpochRecord, Fit
from unfreeze.fitpages import cost_section, fit_sections
from unfreeze.report.charts import draw


def epoch(phase, number, seconds):
    return EpochRecord(phase, number, 0.5, 0.4, 0.9, seconds, 100.0 / seconds, 0.25, 3 * 10**9, {"head": 0.1})


def ledger(phase, drift, precision="fp32", change=0.5):
    groups = (GroupRecord("head", 0.02, 0.0, 2, 1234),)
    return PhaseRecord(phase, ("b: weights",), groups, {"b": change, "head": 0.1}, drift, precision, "x", "x")


FIT = Fit(
    history=[epoch("first", 0, 1.0), epoch("first", 1, 3.0), epoch("second", 0, 1.0)],
    ledger=[
        ledger("first", {"a": 0.0, "b": 0.3, "pool": 0.4}),
        replace(ledger("second", {"a": 0.0, "b": 0.1, "pool": 0.2}, "bf16", change=0.25), epoch_seconds=1.2),
    ],
    taken="second, epoch 1",
)


def test_a_phase_is_a_row_with_its_precision_and_its_rate_over_all_epochs():
    history, _ = fit_sections(FIT)
    assert history.tables[0].rows == (
        ("first", "fp32", "2", "2.0 s", "", "50", "25.0%", "3.00 GB"),
        ("second", "bf16", "1", "1.0 s", "1.2 s", "100", "25.0%", "3.00 GB"),
    )
    assert history.tables[0].columns[1] == "precision"


def test_curves_show_where_each_phase_begins():
    history, _ = fit_sections(FIT)
    for chart in history.charts:
        assert [(border.x, border.name) for border in chart.borders] == [(1, "first"), (3, "second")]
    drawn = draw(history.charts[0], width=700)
    assert ">first<" in drawn
    assert "second from epoch 3 on" in drawn
    alone, _ = fit_sections(replace(FIT, history=FIT.history[:2], ledger=FIT.ledger[:1]))
    assert alone.charts[0].borders == ()


def test_forgetting_is_that_of_the_weights_handed_on_last_and_zero_is_called_exact():
    _, section = fit_sections(FIT)
    weights, features = section.charts
    assert [(bar.name, bar.parts) for bar in weights.bars] == [
        ("b, first", (0.5,)),
        ("b, second", (0.25,)),
        ("head, first", (0.1,)),
        ("head, second", (0.1,)),
    ]
    (_, alone) = fit_sections(replace(FIT, ledger=FIT.ledger[:1]))
    assert [bar.name for bar in alone.charts[0].bars] == ["b", "head"]
    assert features.title == "How far the features moved, by stage"
    assert [(bar.name, bar.parts, bar.text) for bar in features.bars] == [
        ("a", (0.0,), "0, exactly"),
        ("b", (0.1,), "10.0%"),
        ("pool", (0.2,), "20.0%"),
    ]
    assert "At the end of stage a they are exactly, bit for bit, what they were." in section.paragraphs[1]
    assert "mixed" not in section.paragraphs[1]


def test_what_is_not_exact_is_not_called_so():
    everything = replace(FIT, ledger=[ledger("only", {"a": 0.2, "pool": 0.1})], mix=0.5)
    told = fit_sections(everything)[1].paragraphs[1]
    assert "exactly" not in told
    assert "before the trained weights were mixed with the start" in told
    frozen = replace(FIT, ledger=[ledger("only", {"a": 0.0, "b": 0.0, "pool": 0.1})])
    assert "the stages a to b they are exactly" in fit_sections(frozen)[1].paragraphs[1]


def phase_cost(name, epochs):
    return PhaseCost(
        name=name,
        boundary=0,
        rows=100,
        epochs=epochs,
        stored=False,
        epoch_seconds=2.0,
        plain_epoch_seconds=2.0,
        filling_seconds=0.0,
        once_seconds=1.0,
        store_bytes=0,
        memory_bytes=0,
        reason="",
    )


COST = Cost(
    strategy="own",
    phases=(phase_cost("first", 2), phase_cost("second", 5)),
    around={"decoding": 4.0},
    memory_bytes=4 * 10**9,
)


def test_what_it_took_stands_beside_what_was_predicted_for_the_epochs_that_were_run():
    section = cost_section(COST, FIT, 24.0)
    assert section.tables[0].rows == (
        ("first", "2 of 2", "5.0 s", ""),
        ("second", "1 of 5", "3.0 s", ""),
        ("before, between and after", "", "4.0 s", ""),
        ("together", "", "12.0 s", "24.0 s"),
        ("peak memory", "", "4.00 GB", "3.00 GB"),
    )
    assert section.paragraphs[0].endswith(
        "12.0 s for the epochs that were run, and it took 24.0 s, 2.00 times as long."
    )


def test_what_a_resumed_training_took_is_not_known():
    section = cost_section(COST, FIT, None)
    assert section.tables[0].rows[3] == ("together", "", "12.0 s", "")
    assert section.paragraphs[0].endswith("It was resumed, so that what it took in all was not counted.")
