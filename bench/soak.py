"""Whether anything grows: twenty trainings in one process, and an hour of serving under load.

    python bench/soak.py
    python bench/soak.py --trainings 20 --minutes 60 --rate 10

Memory is resident memory as the system counts it, after Python's collector has run; files are open descriptors. The
load are requests with one picture and with sixteen, and one in ten that is wrong: bytes that are no picture, a body
that ends too early, a task that does not exist, a connection that is dropped before the answer.
"""

from __future__ import annotations

import argparse
import csv
import gc
import http.client
import itertools
import json
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from server import multipart, start_server
from unfreeze.config import TrainRequest
from unfreeze.demo import solar_cells, write_table
from unfreeze.executors.processor import available_cores, processor_name
from unfreeze.run import train

STRATEGIES = ("partial", "feature-extraction", "lora", "gradual")
ROWS = 120
PICTURES = 40
WRONG = 0.1
# The first trainings and minutes fill what is filled once: libraries, thread pools, allocators.
WARM_TRAININGS, WARM_MINUTES = 4, 5


@dataclass(frozen=True)
class Reading:
    """Resident megabytes, open descriptors and threads of a process."""

    megabytes: float
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.megabytes:,.0f} MB, {self.files} files, {self.threads} threads"


def read(process: int | str = "self") -> Reading:
    place = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    return Reading(
        int(status["VmRSS"].split()[0]) / 1024, len(list((place / "fd").iterdir())), int(status["Threads"])
    )


def report(readings: list[Reading], warm: int, unit: str) -> None:
    """First and last after the warm-up, the largest, and the slope of a line through them."""
    steady = readings[warm:]
    if len(steady) < 3:
        print("Too few readings for a slope.")
        return
    sizes = [reading.megabytes for reading in steady]
    slope = np.polyfit(np.arange(len(sizes)), sizes, 1)[0]
    print(
        f"After {warm} {unit}s: {steady[0]}; at the end: {steady[-1]}; at most {max(sizes):,.0f} MB and "
        f"{max(reading.files for reading in steady)} files; {slope:+.2f} MB a {unit} on average.",
        flush=True,
    )


def soak_trainings(table: Path, folder: Path, count: int) -> None:
    print(f"{count} trainings of {ROWS} cells in one process, {', '.join(STRATEGIES)} in turns:", flush=True)
    readings = []
    for number, strategy in zip(range(count), itertools.cycle(STRATEGIES), strict=False):
        settings = {} if strategy == "feature-extraction" else {"epochs": 1}
        train(
            TrainRequest(
                data=str(table),
                output_dir=folder / f"run{number}",
                strategy=strategy,
                image_size=64,
                seed=number,
                **settings,
            )
        )
        gc.collect()
        readings.append(read())
        print(f"  {number + 1:3} {strategy:20} {readings[-1]}", flush=True)
    report(readings, WARM_TRAININGS, "training")


@dataclass
class Load:
    """Requests at a rate, from several connections, until it is told to stop."""

    port: int
    pictures: list[bytes]
    rate: float
    connections: int = 4
    answers: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(self.connections)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _work(self, number: int) -> None:
        chance = random.Random(number)
        connection = self._connect()
        while not self.stopped.wait(chance.expovariate(self.rate / self.connections)):
            try:
                if chance.random() < WRONG:
                    self.answers[self._wrong(chance)] += 1
                else:
                    raws = chance.choices(self.pictures, k=16 if chance.random() < 0.1 else 1)
                    self.answers[str(self._ask(connection, "task", *multipart(raws)))] += 1
            except (OSError, http.client.HTTPException) as problem:
                self.answers[type(problem).__name__] += 1
                connection.close()
                connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _ask(self, connection: http.client.HTTPConnection, task: str, body: bytes, kind: str) -> int:
        connection.request("POST", f"/v1/tasks/{task}/predict", body, {"content-type": kind})
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def _wrong(self, chance: random.Random) -> str:
        """One wrong request on a connection of its own; what it was and how it was answered."""
        which = chance.randrange(4)
        connection = self._connect()
        try:
            if which == 0:
                return f"no picture {self._ask(connection, 'task', *multipart([chance.randbytes(2000)]))}"
            if which == 1:
                return f"no task {self._ask(connection, 'absent', *multipart(self.pictures[:1]))}"
            body, kind = multipart(self.pictures[:1])
            head = (
                f"POST /v1/tasks/task/predict HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", self.port), timeout=60) as raw:
                raw.sendall(head.encode() + (body[: len(body) // 2] if which == 2 else body))
            return "cut off" if which == 2 else "left before the answer"
        finally:
            connection.close()


def soak_server(run: Path, pictures: list[bytes], minutes: int, rate: float) -> None:
    print(f"{minutes} minutes of serving, {rate:g} requests a second:", flush=True)
    server, port = start_server(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with server:
        try:
            load = Load(port, pictures, rate)
            threads = load.start()
            readings = []
            for minute in range(minutes):
                time.sleep(60)
                readings.append(read(server.pid))
                if minute % 5 == 4:
                    answered = sum(load.answers.values())
                    print(f"  {minute + 1:3} min {readings[-1]}, {answered:,} requests", flush=True)
            load.stopped.set()
            for thread in threads:
                thread.join()
            report(readings, WARM_MINUTES, "minute")
            print(f"Answers: {json.dumps(dict(sorted(load.answers.items())))}")
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    arguments = parser.parse_args()
    print(f"{processor_name()}, {available_cores()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = solar_cells()
        write_table(cells[:: len(cells) // ROWS], folder / "cells.csv")
        if arguments.trainings:
            soak_trainings(folder / "cells.csv", folder, arguments.trainings)
        if arguments.minutes:
            request = TrainRequest(
                data=str(folder / "cells.csv"), output_dir=folder / "served", strategy="feature-extraction"
            )
            with (folder / "cells.csv").open() as file:
                paths = [next(iter(row.values())) for row in csv.DictReader(file)][:PICTURES]
            pictures = [(folder / path).read_bytes() for path in paths]
            soak_server(train(request).folder, pictures, arguments.minutes, arguments.rate)


if __name__ == "__main__":
    main()
