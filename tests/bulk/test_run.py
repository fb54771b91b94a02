"""Bulk prediction as the command does it: every row once, whoever is killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unfreeze.bulk.folder import Written
from unfreeze.bulk.run import BulkRequest, predict_bulk

ROWS, SHARDS, PIECE = 480, 2, 40
BAD_EVERY = 40


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Short texts in two Parquet files; one cell in forty is empty."""
    folder = tmp_path_factory.mktemp("shards")
    words = np.array(["meeting", "election", "prize", "report", "storm", "winner"])
    random = np.random.default_rng(3)
    for shard in range(SHARDS):
        texts = [
            None if row % BAD_EVERY == 7 else f"{' '.join(random.choice(words, 4))} {row}"
            for row in range(ROWS // SHARDS)
        ]
        pq.write_table(pa.table({"text": texts}), folder / f"s{shard}.parquet", row_group_size=68)
    return folder


def arguments(run, shards, output):
    return [
        "predict", str(run), str(shards), "--engine", "ray", "--workers", "2",
        "--piece-rows", str(PIECE), "--output", str(output),
    ]  # fmt: skip


def workers_of(process):
    """Process ids of Ray's workers that are at work below a process, by the titles that Ray gives them."""
    parents, titles = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(entry.name)] = int(status[1])

    def is_below(pid):
        while pid in parents and pid != process:
            pid = parents[pid]
        return pid == process

    return [pid for pid, title in titles.items() if title.startswith("ray::_Worker") and is_below(pid)]


def wait_for(condition, *, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def check_all_rows(output, shards, run):
    """Every row is in one place, and the good ones have the numbers of plain predictions."""
    import unfreeze
    from unfreeze.data.inputs import open_inputs
    from unfreeze.model import Model

    good = pq.read_table(output / "predictions")
    bad = pq.read_table(output / "bad")
    names = good.column("input").to_pylist() + bad.column("input").to_pylist()
    wanted = [f"s{shard}.parquet:{row + 1}" for shard in range(SHARDS) for row in range(ROWS // SHARDS)]
    assert sorted(names) == sorted(wanted)
    assert bad.num_rows == ROWS // BAD_EVERY
    assert set(bad.column("reason").to_pylist()) == {"cannot be read: the cell is empty"}
    model = unfreeze.load(run)
    assert isinstance(model, Model)
    plain = {}
    for shard in range(SHARDS):
        path = str(shards / f"s{shard}.parquet")
        samples = open_inputs([path], modality="text", lines=None, column="text")
        plain |= {row.input: row for row in model.iterate(samples) if row.error is None}
    assert len(plain) == good.num_rows
    for row in good.to_pylist():
        assert row["label"] == plain[row["input"]].label
        assert row["probability"] == pytest.approx(plain[row["input"]].probability, abs=1e-5)
        assert row["abstain"] == plain[row["input"]].abstain


def count_parts(output):
    return len(list((output / "predictions").glob("part-*.parquet")))


@pytest.mark.slow
def test_a_command_that_is_killed_and_run_again_writes_every_row_once(text_run, shards, tmp_path, command):
    output = tmp_path / "out"
    said = arguments(text_run.run.folder, shards, output)
    first = subprocess.Popen([sys.executable, "-m", "unfreeze", *said], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: count_parts(output) >= 2)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = {path: path.stat().st_mtime_ns for path in (output / "predictions").iterdir()}
    assert 2 <= len(before) < ROWS // PIECE

    answer = command(*said)
    assert answer.status == 0, answer.err
    assert f"{ROWS} rows are written already" in answer.err
    assert f"{ROWS - ROWS // BAD_EVERY} rows written to" in answer.err
    assert f"{ROWS // BAD_EVERY} bad ones beside" in answer.err
    whole = [path for path in before if path.name.startswith("part-")]
    assert all(path.stat().st_mtime_ns == before[path] for path in whole)
    check_all_rows(output, shards, text_run.run.folder)

    again = command(*said)
    assert again.status == 0, again.err
    assert f"{ROWS} of {ROWS} rows are written already." in again.err
    other = command(*said, "--top-k", 2)
    assert other.status == 2
    assert "holds predictions of another --top-k" in other.err


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_piece_done_again(text_run, shards, tmp_path, command):
    output = tmp_path / "out"
    killed = []

    def kill():
        wait_for(lambda: count_parts(output) >= 2)
        killed.extend(wait_for(lambda: workers_of(os.getpid()))[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    answer = command(*arguments(text_run.run.folder, shards, output))
    killer.join()
    assert killed
    assert answer.status == 0, answer.err
    check_all_rows(output, shards, text_run.run.folder)


@pytest.fixture
def cluster(tmp_path):
    """A Ray that runs already and asks for a token: its address for clients, and the variables that hold the token."""
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("127.0.0.1", 0))
        ports = [listener.getsockname()[1] for listener in (first, second)]
    token = {"RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, (tmp_path / "said").open("w") as said:
        head = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1",
                "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}",
                f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}",
            ],
            # Its server for clients forks while other threads call, and would hang now and then in what gRPC does then.
            env=os.environ | token | {"RAY_AUTH_MODE": "token", "GRPC_ENABLE_FORK_SUPPORT": "0"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )  # fmt: skip
        try:
            wait_for(lambda: listens(ports[1]) and "--block" in (tmp_path / "said").read_text())
            yield f"ray://127.0.0.1:{ports[1]}", token
        finally:
            head.terminate()
            with suppress(subprocess.TimeoutExpired):
                head.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def listens(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_cluster_that_runs_already_is_joined_with_its_token(image_run, photos, cluster, tmp_path):
    address, token = cluster
    output = tmp_path / "out"
    said = [
        "predict",
        image_run.run.folder,
        photos,
        "--engine",
        address,
        "--workers",
        "1",
        "--output",
        output,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "unfreeze", *map(str, said)],
        env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"} | token,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(output / "predictions").to_pylist()
    plain = image_run.run.model().predict(sorted(photos.glob("*/*.png")))
    assert [row["label"] for row in rows] == [row.label for row in plain]


class RayHere:
    """As much of Ray as bulk prediction asks for, in this process."""

    exceptions = SimpleNamespace(RayTaskError=RuntimeError, RayError=RuntimeError)

    @staticmethod
    def remote(**_):
        def actor(kind, order):
            worker = kind(order)
            return SimpleNamespace(
                predict=SimpleNamespace(remote=lambda *given: partial(worker.predict, *given))
            )

        return lambda kind: SimpleNamespace(remote=partial(actor, kind))

    @staticmethod
    def wait(running, num_returns):
        return running[:num_returns], running[num_returns:]

    @staticmethod
    def get(ready):
        return ready()


def test_texts_that_were_cut_are_counted_over_all_pieces_and_workers(
    text_run, tmp_path, monkeypatch, plain_torch
):
    cluster = SimpleNamespace(ray=RayHere, workers=lambda _: SimpleNamespace(count=2, cores=1))
    monkeypatch.setattr("unfreeze.bulk.run.joined", lambda *_, **__: nullcontext(cluster))
    monkeypatch.setattr("unfreeze.bulk.run.settle", lambda *_: None)
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["prize", "prize " * 40, "cash " * 40, "cash", "offer " * 40]}), table)
    request = BulkRequest(
        run=str(text_run.run.folder),
        inputs=(str(table),),
        output=str(tmp_path / "out"),
        engine="ray",
        column="text",
        piece_rows=2,
    )
    said = []
    progress = SimpleNamespace(say=said.append, count=lambda *_: None)
    assert predict_bulk(request, progress=progress) == Written(5, 0)
    words = "are longer than the 16 tokens that are read of each, and were cut."
    assert said == [f"3 of 5 texts (60.0%) {words}"]
    (tmp_path / "out" / "predictions" / "part-000001.parquet").unlink()
    predict_bulk(request, progress=progress)
    assert said[1:] == ["3 of 5 rows are written already.", f"1 of 2 texts (50.0%) {words}"]


def test_what_the_engine_cannot_do_is_refused(text_run, shards, tmp_path, command):
    run = text_run.run.folder
    for more, words in (
        (["--engine", "ray"], "name a folder for them with --output"),
        (["--engine", "ray", "--output", tmp_path / "a.parquet"], "names one file"),
        (["--engine", "ray", "--output", tmp_path / "out", "--json"], "leave --json and --explain out"),
        (["--engine", "rai", "--output", tmp_path / "out"], "Did you mean 'ray'"),
        (["--workers", 2], "--workers has no effect without --engine ray"),
        (["--piece-rows", 2], "--piece-rows has no effect without --engine ray"),
    ):
        answer = command("predict", run, shards, *more)
        assert answer.status == 2
        assert words in answer.err
    assert not (tmp_path / "out").exists()
