"""What a person reads while work goes on."""

import pytest

from unfreeze.cli import console


@pytest.fixture
def shown(monkeypatch, capsys):
    """The lines of counts that come at these seconds, on no terminal."""

    def tell(*counts, live=False):
        progress, now = console.TerminalProgress(), iter([at for at, *_ in counts])
        progress._live = live
        monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
        for _, done, total in counts:
            progress.count("rows", done, total)
        return capsys.readouterr().err

    return tell


def test_fast_work_is_told_by_its_rate(shown):
    assert shown((0.0, 0, 90), (3.0, 90, 90)) == "rows: 90 of 90 (30/s)\n"


def test_slow_work_is_told_by_what_one_takes(shown):
    assert shown((0.0, 1, 3), (100.0, 2, 3), (200.0, 3, 3)) == "rows: 3 of 3 (1 min 40 s each)\n"


def test_the_first_count_knows_no_rate(shown):
    assert shown((0.0, 2, 2)) == "rows: 2 of 2\n"


def test_a_terminal_is_told_the_time_that_is_left(shown):
    told = shown((10.0, 0, 200), (20.0, 20, 200), live=True)
    assert told.endswith("rows: 20 of 200 (2/s, 1 min 30 s left)")


def test_another_count_begins_anew(shown, monkeypatch, capsys):
    progress = console.TerminalProgress()
    progress._live = False
    now = iter([0.0, 10.0, 12.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    progress.count("a", 0, 2)
    progress.count("b", 0, 8)
    progress.count("b", 8, 8)
    assert capsys.readouterr().err == "b: 8 of 8 (4/s)\n"
