"""``make audit`` where no service can be reached, and where one can."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "audit.py"
# Stands for pip-audit: what it does when it is asked for pip alone, and then for the packages.
ANSWERS = {
    "unreachable": ("echo 'Traceback (most recent call last)' >&2; exit 1", "exit 0", 2),
    "not known": ("echo 'pip: Dependency not found' >&2; exit 1", "exit 0", 2),
    "an answer that is none": ("echo '[]'; exit 0", "exit 0", 2),
    "clean": ("""echo '{"dependencies": [{"name": "pip"}]}'; exit 1""", "exit 0", 0),
    "something known": ("""echo '{"dependencies": [{"name": "pip"}]}'; exit 0""", "exit 1", 1),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_could_not_be_looked_up_does_not_pass_for_clean(tmp_path, answer):
    known, packages, status = ANSWERS[answer]
    program = tmp_path / "pip-audit"
    program.write_text(f'#!/bin/sh\ncase "$*" in *json*) {known};; *) {packages};; esac\n')
    program.chmod(0o755)
    (tmp_path / "installed.txt").write_text("numpy==2.0.0\n")
    done = subprocess.run(
        [sys.executable, TOOL, program, tmp_path / "installed.txt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert ("nothing was audited" in done.stderr) == (status == 2)
    assert "Traceback" not in done.stderr
