"""Disks that take nothing more, where no run is made; faults/test_faults.py has the commands that make one."""

import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="limits the size of files")
FULL = Path("/dev/full")
ROOM = 2_000


@contextmanager
def little_room(size=ROOM):
    """No file grows beyond so many bytes: writing fails as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_one_sentence(answer, place, flag):
    assert answer.status == 1, answer.err
    # The counts of a progress stand before it.
    said = answer.err.splitlines()[-1]
    assert said.startswith(f"Error: {place}")
    assert "could not be written (File too large). Nothing was left there: free some space" in said
    assert said.endswith(f"choose another {flag}.")
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_predictions_that_do_not_fit_are_not_left_behind(ending, text_run, command, tmp_path, plain_torch):
    folder = tmp_path / "out"
    folder.mkdir()
    whole = command("predict", text_run.run.folder, text_run.data, "--output", tmp_path / f"whole.{ending}")
    assert whole.status == 0, whole.err
    with little_room():
        answer = command("predict", text_run.run.folder, text_run.data, "--output", folder / f"rows.{ending}")
    assert_one_sentence(answer, folder / f"rows.{ending}", "--output")
    assert list(folder.iterdir()) == []


def test_explanations_that_do_not_fit_leave_the_folder_to_be_used_again(
    image_run, command, tmp_path, plain_torch
):
    arguments = ("predict", image_run.run.folder, image_run.data / "green", "--explain", tmp_path / "why")
    # The pictures take 10 kB each, the page more than all of them.
    for room in (ROOM, 30_000):
        with little_room(room):
            answer = command(*arguments)
        assert_one_sentence(answer, tmp_path / "why", "--explain")
        assert list((tmp_path / "why").iterdir()) == []
    assert command(*arguments).status == 0
    assert (tmp_path / "why" / "explanations.html").stat().st_size > 30_000


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_that_is_full_is_said_in_a_sentence(
    options, text_run, command, tmp_path, monkeypatch, plain_torch
):
    text = tmp_path / "mail.txt"
    text.write_text("meeting agenda")
    # A row is smaller than the buffer, so that it is the end of the command that fails; a table is larger.
    for source in (text, text_run.data):
        with FULL.open("w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            answer = command("predict", text_run.run.folder, source, "--top-k", "3", *options)
        assert answer.status == 1
        assert answer.err.splitlines()[-1] == (
            "Error: Standard output could not be written (No space left on device). "
            "Free some space, or mend the permissions, and run it again."
        )


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_where_nothing_can_be_said_the_exit_status_still_tells(command, tmp_path, monkeypatch):
    streams = {name: FULL.open("w", buffering=1) for name in ("stdout", "stderr")}
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        assert command("check", tmp_path / "nowhere").status == 2
        assert command("--version").status == 1
    for stream in streams.values():
        # What could not be written is still waiting in it.
        with suppress(OSError):
            stream.close()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torchscript", "pt2"])
def test_an_export_that_does_not_fit_ends_in_a_sentence_and_leaves_nothing(format, image_run, tmp_path):
    """In a process of its own: PyTorch's writers would end this one."""
    script = (
        "import resource, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))\n"
        "from unfreeze.cli.app import main\n"
        "main()"
    )
    place = tmp_path / "out"
    arguments = ["export", image_run.run.folder, "--format", format, "--output", place / "made"]
    place.mkdir()
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"Error: {place}")
    assert "could not be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(place.iterdir()) == []


# Begins a program that permissions bind, for root too: a capability out of the bounding set (PR_CAPBSET_DROP of
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH) is lost when a process executes another.
GIVE_UP_PRIVILEGE = """
import ctypes, os, sys
if sys.argv[-1] != "bound":
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
    os.execv(sys.executable, [*sys.orig_argv, "bound"])
"""


def refusals(commands):
    """What each of the commands says when it ends with status 2, in a process with the permissions of a user."""
    script = GIVE_UP_PRIVILEGE + (
        "from unfreeze.cli.app import main\n"
        f"for words in {[[str(word) for word in words] for words in commands]!r}:\n"
        "    sys.argv = ['unfreeze', *words]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stopped:\n        print(stopped.code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * len(commands), done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(commands), said
    assert all(sentence.startswith("Error: ") for sentence in said)
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="root is bound by permissions on Linux alone")
def test_a_folder_that_may_not_be_read_is_named_by_every_command(image_run, tmp_path):
    data = tmp_path / "photos"
    shutil.copytree(image_run.data, data)
    closed = data / "red"
    closed.chmod(0)
    try:
        for sentence in refusals([["check", data], ["train", data], ["predict", image_run.run.folder, data]]):
            assert f"{closed} cannot be read: permission denied" in sentence
    finally:
        closed.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="root is bound by permissions on Linux alone")
def test_a_folder_that_may_not_be_written_is_named_by_every_command(image_run, tmp_path):
    run, picture, closed = image_run.run.folder, image_run.data / "green" / "00.png", tmp_path / "closed"
    commands = {
        "--output-dir": ["train", image_run.data, "--output-dir", closed / "run"],
        "--output": ["predict", run, picture, "--output", closed / "rows.csv"],
        "--explain": ["predict", run, picture, "--explain", closed / "why"],
        "--output ": ["export", run, "--output", closed / "made"],
    }
    closed.mkdir(mode=0o555)
    for sentence, flag in zip(refusals([*commands.values()]), commands, strict=True):
        assert str(closed) in sentence
        assert flag.strip() in sentence
    assert list(closed.iterdir()) == []
