"""Kills, signals and failing disks at a few places of each command; ``make faults`` tries all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).with_name("faults.py")
# Seconds from a signal to the end of the process: "within seconds" on a quiet machine.
LONGEST_STOP = 30


def break_commands(folder, scenarios, *, kills=0, signals=0, disks=0, parts=False):
    """What was tallied, by command."""
    counts = {"--kills": kills, "--signals": signals, "--disks": disks, "--timed": 0}
    command = [sys.executable, FAULTS, folder, "--parts" if parts else "--no-parts"]
    command += [str(word) for pair in counts.items() for word in pair]
    command += [word for scenario in scenarios for word in ("--scenario", scenario)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "scenarios", [("train gradual", "train feature-extraction", "export"), ("compare", "adapt")]
)
def test_what_is_killed_or_stopped_anywhere_is_gone_on_with_to_the_same_bits(scenarios, tmp_path):
    tallies = break_commands(tmp_path, scenarios, kills=3, signals=1, disks=1)
    for tally in tallies.values():
        assert tally["wrong"] == []
        # Places that are counted show that the commands do write where faults are looked for.
        assert tally["places"] > 15
        assert sum(tally["kinds"].values()) == 3 + 1 + 1
        assert 0 < tally["slowest_stop"] < LONGEST_STOP
    # Neighbours among the commands take turns, so that each kind is tried.
    tried = {kind for tally in tallies.values() for kind in tally["kinds"]}
    assert tried == {"killed", "torn", "SIGTERM", "SIGINT", "full disk", "no permission"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_asked_to_stop_in_any_part_is_gone_on_with_to_the_same_bits(tmp_path):
    """By SIGTERM and by SIGINT, in indexing, frozen pass, probe, training, evaluation and report."""
    tally = break_commands(tmp_path, ["train gradual"], parts=True)["train gradual"]
    assert tally["wrong"] == []
    assert tally["kinds"] == {"SIGTERM": 6, "SIGINT": 6}
    assert 0 < tally["slowest_stop"] < LONGEST_STOP
