"""Serving beside its parts: a server at saturation, at half load, and with thousands of heads on one network.

python bench/serving.py
python bench/serving.py RUN --files photos/*.png
python bench/serving.py RUN --table mails.csv --column text

Without a run, EfficientNet-Lite0 is trained on solar cells first, and asked for them. The server is a process of its
own, and so is the load. In process: the same raw inputs decoded (or tokenised) and run by the same executor in batches
of 32, which is what a server cannot beat. Heads: copies of the run's own under other names, asked at random, through
the batches of one network but not through HTTP.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import random
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from server import multipart, start_server
from trained import few_cells, train_images
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.serving.hosting import Host
from unfreeze.serving.limits import Limits
from unfreeze.serving.tasks import Registry
from unfreeze.serving.weights import Weights

BATCH = 32
SECONDS = 15.0
CONNECTIONS, ROWS_A_REQUEST = 8, 16
HEADS = (1, 100, 10_000)
# More requests at a time than may wait: what is too much must be refused, and nothing else go wrong.
CROWD, CROWD_SECONDS = 80, 60.0


def body_of(raws: list[bytes] | list[str]) -> tuple[bytes, str]:
    if isinstance(raws[0], str):
        return json.dumps({"texts": raws}).encode(), "application/json"
    return multipart(raws)


def load_server(
    port: int, bodies: list[tuple[bytes, str]], connections: int, rate: float | None, answers
) -> None:
    """Requests as fast as they are answered, or at ``rate`` a second; seconds and status of each."""
    began, found = time.perf_counter(), []
    until = began + (CROWD_SECONDS if connections == CROWD else SECONDS)

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        chance, due = random.Random(number), began
        while (now := time.perf_counter()) < until:
            if rate is not None:
                due += chance.expovariate(rate / connections)
                if due > now:
                    time.sleep(due - now)
            body, kind = chance.choice(bodies)
            start = time.perf_counter()
            connection.request("POST", "/v1/tasks/task/predict", body, {"content-type": kind})
            answer = connection.getresponse()
            answer.read()
            found.append((time.perf_counter() - start, answer.status))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put((time.perf_counter() - began, found))


def under_load(port: int, bodies: list[tuple[bytes, str]], connections: int, rate: float | None = None):
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    process = spawn.Process(target=load_server, args=(port, bodies, connections, rate, answers))
    process.start()
    result = answers.get()
    process.join()
    return result


def in_process(host: Host, raws: list, seconds: float) -> float:
    """Rows a second of decoding and the executor, batch after batch in one thread."""
    done, began = 0, None
    while began is None or time.perf_counter() < began + seconds:
        start = done % len(raws)
        batch = [raws[(start + place) % len(raws)] for place in range(BATCH)]
        host._network.plain(host._batch([host.prepare(raw) for raw in batch]))
        if began is None:  # the first one fills caches
            began = time.perf_counter()
            continue
        done += BATCH
    return done / (time.perf_counter() - began)


def through_batches(host: Host, values: list, tasks: list[str], seconds: float) -> float:
    """Rows a second through the batches of a network, each row for a task at random."""
    chance, done, began = random.Random(0), 0, time.perf_counter()
    waiting = []
    while time.perf_counter() < began + seconds:
        waiting += host.submit([chance.choice(values)], (chance.choice(tasks),), seconds=600)
        if len(waiting) >= 4 * BATCH:
            for future in waiting[:BATCH]:
                future.result()
            done += BATCH
            waiting = waiting[BATCH:]
    for future in waiting:
        future.result()
    return (done + len(waiting)) / (time.perf_counter() - began)


def crowd(server: subprocess.Popen, port: int, raws: list) -> None:
    """Too many connections for a minute, and one request after it."""
    groups = [raws[start : start + ROWS_A_REQUEST] for start in range(0, len(raws), ROWS_A_REQUEST)]
    bodies = [body_of(group) for group in groups]
    under_load(port, bodies, CONNECTIONS)
    before = resident_megabytes(server.pid)
    _, found = under_load(port, bodies, CROWD)
    counts = {status: sum(one == status for _, one in found) for status in sorted({one for _, one in found})}
    after = resident_megabytes(server.pid)
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body, kind = body_of(raws[:1])
    connection.request("POST", "/v1/tasks/task/predict", body, {"content-type": kind})
    status = connection.getresponse().status
    print(
        f"{CROWD} connections with {ROWS_A_REQUEST} inputs a request for {CROWD_SECONDS:.0f} s: answers by status "
        f"{counts}, memory {before:.0f} to {after:.0f} MB; the next single request: {status} after "
        f"{1e3 * (time.perf_counter() - began):.0f} ms",
        flush=True,
    )


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def raw_inputs(arguments: argparse.Namespace) -> list:
    if arguments.table is None:
        files = arguments.files or [cell.image for cell in few_cells()]
        return [file.read_bytes() for file in sorted(files)[:256]]
    import pandas

    read = pandas.read_parquet if arguments.table.suffix == ".parquet" else pandas.read_csv
    return [str(text) for text in read(arguments.table)[arguments.column][:256]]


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.run or train_images(Path(folder)), raw_inputs(arguments))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="(default: Lite0 on solar cells, trained first)")
    parser.add_argument("--files", type=Path, nargs="+", help="image files")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--column", default="text")
    arguments = parser.parse_args()
    if arguments.run is not None and arguments.files is None and arguments.table is None:
        parser.error("a run needs --files or --table, to be asked for")
    if arguments.run is None and (arguments.files or arguments.table):
        parser.error("--files and --table are for a RUN that is given")
    return arguments


def measure(run: Path, raws: list) -> None:
    print(f"{processor_name()}, {available_cores()} cores, {run}, {len(raws)} inputs", flush=True)

    registry = Registry(Limits(queue=100_000))
    task = registry.put("task-0", run)
    host = task.host
    alone = in_process(host, raws, SECONDS)
    print(f"in process, decoding and {task.executor}: {alone:.1f} rows/s", flush=True)

    server, port = start_server(run)
    try:
        groups = [raws[start : start + ROWS_A_REQUEST] for start in range(0, len(raws), ROWS_A_REQUEST)]
        seconds, found = under_load(port, [body_of(group) for group in groups], CONNECTIONS)
        good = sum(status == 200 for _, status in found)
        full = good * ROWS_A_REQUEST / seconds
        print(
            f"at saturation, {CONNECTIONS} connections with {ROWS_A_REQUEST} inputs a request: {full:.1f} rows/s "
            f"({full / alone:.0%}), statuses {sorted({status for _, status in found})}",
            flush=True,
        )
        seconds, found = under_load(port, [body_of([raw]) for raw in raws], CONNECTIONS, full / 2)
        times = sorted(one for one, _ in found)
        print(
            f"at half of that, one input a request, {len(found) / seconds:.1f} requests/s: median "
            f"{1e3 * statistics.median(times):.0f} ms, p95 {1e3 * times[int(0.95 * len(times))]:.0f} ms, "
            f"p99 {1e3 * times[int(0.99 * len(times))]:.0f} ms",
            flush=True,
        )
        crowd(server, port, raws)
    finally:
        server.terminate()
        server.wait()

    values = [host.prepare(raw) for raw in raws[:64]]
    chance = np.random.default_rng(0)
    base = None
    for count in HEADS:
        while len(host.tasks) < count:
            head = task.classifier.head
            tensors = {
                name: tensor + chance.normal(0, 0.01, tensor.shape).astype(np.float32)
                for name, tensor in head.tensors.items()
            }
            source = replace(task.source)
            host._sources[f"task-{len(host.tasks)}"] = source
            registry.weights.put(source, Weights(type(head)(head.kind, head.boundaries, tensors), {}))
        rate = through_batches(host, values, list(host.tasks), SECONDS)
        base = base or rate
        print(f"{count:,} heads on one network: {rate:.1f} rows/s ({rate / base:.0%} of one)", flush=True)
    registry.close()


if __name__ == "__main__":
    main()
