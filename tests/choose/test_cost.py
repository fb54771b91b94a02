"""The arithmetic of costs: from the pace of batches to a plan."""

from dataclasses import replace

import pytest

from unfreeze.choose.cost import Around, Line, Load, Pace, cost_of, is_stored, line_through
from unfreeze.engine.estimate import Estimate
from unfreeze.plan import Phase, Plan, Thaw

AROUND = Around(
    starting=1.0,
    decoding=2.0,
    drift=0.5,
    drift_again=0.2,
    temperature=0.1,
    calibrating=4.0,
    refitting=0.0,
    memory_bytes=1_000_000,
)
PACE = Pace(
    input=Line(0.0, 0.001),
    frozen=Line(0.0, 0.010),
    step=Line(0.02, 0.006),
    judged=Line(0.0, 0.002),
    read=Line(0.0, 0.0005),
    write=Line(0.0, 0.0005),
    preparing=3.0,
    unit_bytes=1_000.0,
    memory_bytes=50_000,
)
STAGES = 4


def load(rows, batch=32):
    return Load(rows, -(-rows // batch), float(rows))


def plan(*epochs, patience=None, **settings):
    phases = tuple(
        Phase(name=f"p{place}", epochs=count, thaw=(Thaw(3 - place, "weights", 1e-3),), patience=patience)
        for place, count in enumerate(epochs)
    )
    return Plan(strategy="own", phases=phases, augment="light", **settings)


def cost(made, *, rows=320, val=64, paces=None, use="auto", budget=10**9):
    return cost_of(
        made,
        paces or [PACE] * len(made.phases),
        AROUND,
        train=load(rows),
        val=load(val),
        stages=STAGES,
        use=use,
        budget=budget,
    )


def test_a_line_goes_through_two_batches_and_never_falls():
    assert line_through([(8, 0.18), (32, 0.42)]) == Line(pytest.approx(0.10), pytest.approx(0.01))
    # The larger batch was no slower, or the line would start below nothing: noise, so units share the seconds.
    assert line_through([(8, 0.5), (32, 0.3)]) == Line(0.0, pytest.approx(0.8 / 40))
    assert line_through([(10, 0.1), (20, 0.9)]) == Line(0.0, pytest.approx(1.0 / 30))
    assert line_through([(16, 0.8)]) == Line(0.0, pytest.approx(0.05))


def test_the_seconds_of_a_plan_by_hand():
    made = plan(4, views=2)
    found = cost(made, use="off")
    (phase,) = found.phases
    epoch = 320 * (0.001 + 0.010 + 0.006) + 10 * 0.02 + 64 * (0.010 + 0.002) + 0.1
    assert phase.epoch_seconds == phase.plain_epoch_seconds == pytest.approx(epoch)
    first = 64 * 0.012 + 0.1
    assert phase.once_seconds == pytest.approx(3.0 + 0.2 + first)
    assert found.seconds == found.plain_seconds == pytest.approx(7.5 + 3.2 + first + 4 * epoch)
    assert found.disk_bytes == 0


def test_a_stored_plan_by_hand():
    found = cost(plan(8, views=2), use="on")
    (phase,) = found.phases
    assert phase.stored
    assert phase.filling_seconds == pytest.approx(2 * 320 * 0.0115 + 64 * 0.0105)
    short = 320 * (0.0005 + 0.006) + 0.2 + 64 * 0.0025 + 0.1
    assert phase.epoch_seconds == pytest.approx(short)
    assert phase.seconds == pytest.approx(phase.once_seconds + phase.filling_seconds + 8 * short)
    assert found.disk_bytes == (2 * 320 + 64) * 1_000


@pytest.mark.parametrize("use", ["off", "on", "auto"])
def test_cost_grows_with_rows_and_epochs(use):
    by_rows = [cost(plan(5), rows=rows, use=use) for rows in (40, 80, 400, 4_000)]
    assert by_rows == sorted(by_rows, key=lambda one: one.seconds)
    assert by_rows == sorted(by_rows, key=lambda one: one.plain_seconds)
    assert len({one.seconds for one in by_rows}) == 4
    by_epochs = [cost(plan(epochs), use=use).seconds for epochs in range(1, 30)]
    assert by_epochs == sorted(by_epochs)
    assert cost(plan(5), val=640, use=use).seconds > cost(plan(5), val=64, use=use).seconds


def test_the_store_is_predicted_by_the_engines_own_formula():
    for epochs in range(1, 12):
        for views in (1, 2, 8):
            (phase,) = cost(plan(epochs, views=views)).phases
            estimate = Estimate(
                frozen=0.010,
                trained=(320 * 0.006 + 10 * 0.02) / 320 / 3,
                input=0.001,
                rows=320,
                rounds=epochs,
                views=min(views, epochs),
                bytes=0,
            )
            assert phase.stored == (estimate.stored_seconds < estimate.plain_seconds), (epochs, views)


def test_what_is_stored_follows_the_engine(t, tmp_path, monkeypatch):
    """The same estimates, given to the maker of prefixes itself."""
    from unfreeze.engine.storing import StoringMaker

    backbone, task = t.toy("cnn"), t.task_of("cnn")
    seen = set()
    for frozen, rounds, budget, use in (
        (1.0, 3, 10**9, "auto"),
        (1.0, 1, 10**9, "auto"),
        (0.0, 3, 10**9, "auto"),
        (0.0, 3, 10**9, "on"),
        (1.0, 3, 10, "on"),
        (1.0, 3, 10**9, "off"),
    ):
        estimate = Estimate(
            frozen=frozen, trained=0.1, input=0.0, rows=38, rounds=rounds, views=1, bytes=1_000
        )
        monkeypatch.setattr(StoringMaker, "measure", lambda *_, found=estimate, **__: found)
        phase = Phase(name="p", epochs=rounds)
        made = t.maker(backbone, task, tmp_path, use=use, budget=budget).make(phase, 1, rounds=rounds)
        said, reason = is_stored([estimate], boundary=1, use=use, budget=budget)
        assert said == bool(made.stored), reason
        seen.add(said)
        made.close()
    assert seen == {True, False}
    assert is_stored([estimate], boundary=0, use="on", budget=budget)[0] is False


def test_phases_that_share_a_pass_fill_once_and_hold_their_stores_together():
    found = cost(plan(4, 4, 8, views=6), use="auto")
    first, second, third = found.phases
    assert all(phase.stored for phase in found.phases)
    passes = 6 * 320 * (0.001 + 0.010) + 64 * 0.010
    writing = sum(views * 320 + 64 for views in (4, 4, 6)) * 0.0005
    assert first.filling_seconds == pytest.approx(passes + writing)
    assert second.filling_seconds == third.filling_seconds == 0.0
    assert "an earlier phase" in third.reason
    assert found.disk_bytes == sum(phase.store_bytes for phase in found.phases)
    # Alone none of the first two would be stored: each has as many views as epochs.
    assert not cost(plan(4, views=6)).phases[0].stored
    tight = cost(plan(4, 4, 8, views=6), use="auto", budget=found.disk_bytes - 1)
    assert [phase.stored for phase in tight.phases] == [False, True, True]
    assert tight.disk_bytes == second.store_bytes + third.store_bytes


def test_without_variation_one_view_is_stored():
    still = replace(plan(6), augment="none")
    (phase,) = cost(still, use="on").phases
    assert phase.store_bytes == (320 + 64) * 1_000


def test_the_predicted_phases_are_those_of_the_plan():
    made = plan(2, 3, 4)
    found = cost(made)
    assert [(phase.name, phase.epochs, phase.boundary) for phase in found.phases] == [
        ("p0", 2, 3),
        ("p1", 3, 2),
        ("p2", 4, 1),
    ]
    told = found.to_dict()
    assert [phase["name"] for phase in told["phases"]] == ["p0", "p1", "p2"]
    assert told["seconds"] == pytest.approx(
        sum(found.around.values()) + sum(phase["seconds"] for phase in told["phases"])
    )


def test_the_first_phase_alone_is_judged_before_it_begins():
    first, second = cost(plan(2, 2), use="off").phases
    assert first.once_seconds - second.once_seconds == pytest.approx(64 * 0.012 + 0.1)


def test_patience_counts_all_epochs_and_says_so():
    patient = cost(plan(10, patience=3))
    assert patient.seconds == cost(plan(10)).seconds
    assert "may end after 3 epochs without gain; all 10 are counted" in patient.phases[0].reason
    # It cannot end a phase that has no more epochs.
    assert "may end" not in cost(plan(3, patience=3)).phases[0].reason


def test_the_prediction_for_the_epochs_that_were_run():
    full = cost(plan(10, 10))
    part = full.for_epochs({"p0": 4})
    assert [phase.name for phase in part.phases] == ["p0"]
    assert full.seconds - part.seconds == pytest.approx(
        6 * full.phases[0].epoch_seconds + full.phases[1].seconds
    )
    assert full.for_epochs({"p0": 10, "p1": 10}) == full


def test_mixing_with_the_start_costs_four_judgements_and_an_executor():
    plain, mixed = cost(plan(3)), cost(plan(3, interpolate=True))
    assert mixed.seconds - plain.seconds == pytest.approx(3.0 + 4 * (64 * 0.012 + 0.1))


def test_memory_is_that_of_the_largest_phase_and_what_was_held_before():
    small = replace(PACE, memory_bytes=10)
    found = cost(plan(1, 1), paces=[small, PACE])
    assert found.memory_bytes == 1_050_000


def test_no_look_at_the_drift_is_counted_after_a_phase_of_the_head_alone():
    made = Plan(strategy="own", phases=(Phase(name="a", epochs=1), replace(plan(1).phases[0], name="b")))
    first, second = cost(made, use="off").phases
    assert first.once_seconds == pytest.approx(3.0 + 64 * 0.012 + 0.1)
    assert second.once_seconds == pytest.approx(3.0 + 0.2)
