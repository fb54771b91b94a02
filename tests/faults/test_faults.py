"""Kills, signals and failing disks at a few places of each command; ``make faults`` tries all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).with_name("faults.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "kills"),
    [
        ("train gradual", 5),
        ("train feature-extraction", 3),
        ("compare", 4),
        ("adapt", 3),
        ("export", 3),
    ],
)
def test_what_is_killed_or_stopped_anywhere_is_gone_on_with_to_the_same_bits(scenario, kills, tmp_path):
    command = [sys.executable, FAULTS, tmp_path, "--scenario", scenario]
    command += ["--kills", str(kills), "--signals", "2", "--disks", "2", "--timed", "0"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    tally = json.loads(ended.stdout)[scenario]
    assert tally["wrong"] == []
    # Places that are counted show that the commands do write where faults are looked for.
    assert tally["places"] > 15
    assert (tally["kills"], tally["signals"], tally["failing_disks"]) == (kills, 2, 2)
