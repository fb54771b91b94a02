"""Kills, signals and failing disks at a few places of each command; ``make faults`` tries all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).with_name("faults.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenarios", [("train gradual", "train feature-extraction", "export"), ("compare", "adapt")]
)
def test_what_is_killed_or_stopped_anywhere_is_gone_on_with_to_the_same_bits(scenarios, tmp_path):
    command = [
        sys.executable,
        FAULTS,
        tmp_path,
        "--kills",
        "3",
        "--signals",
        "1",
        "--disks",
        "1",
        "--timed",
        "0",
    ]
    for scenario in scenarios:
        command += ["--scenario", scenario]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for tally in json.loads(ended.stdout).values():
        assert tally["wrong"] == []
        # Places that are counted show that the commands do write where faults are looked for.
        assert tally["places"] > 15
        assert (tally["kills"], tally["signals"], tally["failing_disks"]) == (3, 1, 1)
