"""Ray for as long as a piece of work takes: started here, or joined where it runs already."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.errors import RequestError, did_you_mean, first_line, missing_extra
from unfreeze.executors.processor import CORES, available_cores

LOCAL, RAY, CLIENT = "local", "ray", "ray://"
# Where Ray's own tools say which cluster is meant.
ADDRESS = "RAY_ADDRESS"
# Where Ray looks for the token of a cluster, what makes it send one, and the last place, in the home folder.
TOKENS, MODE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"), "RAY_AUTH_MODE"
TOKEN_FILE = Path(".ray") / "auth_token"
# A worker that dies this often at the same work dies of that work.
RETRIES = 3
REACH_SECONDS = 10.0
# What goes through Ray's memory are requests and receipts: rows are read and written by the workers themselves.
OBJECT_BYTES = 256 * 2**20
# Trainings of small data sets and batches of short inputs leave further cores idle: those take another worker.
MOST_CORES = 4


@dataclass(frozen=True)
class Workers:
    """How many work at the same time, and the cores of each."""

    count: int
    cores: int


@dataclass(frozen=True, eq=False)
class Cluster:
    """A Ray that answers: the module, the cores of each of its machines, and its GPUs."""

    ray: Any
    cores: tuple[int, ...]
    gpus: int

    def workers(self, wanted: int | None) -> Workers:
        """How many workers of how many cores there is room for; ``wanted`` is how many were asked for."""
        return share_out(self.cores, wanted)


def check_engine(engine: str) -> None:
    """Raise RequestError when ``engine`` is no engine, or Ray is not installed."""
    if engine == LOCAL:
        return
    if engine.startswith(CLIENT):
        host, _, port = engine.removeprefix(CLIENT).rpartition(":")
        if not host or not port.isdigit():
            raise RequestError(f"--engine {engine} names no cluster: write it like ray://HOST:10001.")
    elif engine != RAY:
        raise RequestError(
            f"--engine {engine!r} is unknown: choose local, ray or ray://HOST:PORT.{did_you_mean(engine, (LOCAL, RAY))}"
        )
    # The connection to a cluster elsewhere is a package of its own.
    needed = ("ray", "grpc") if engine.startswith(CLIENT) else ("ray",)
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise missing_extra("ray", f"--engine {engine}")


def share_out(cores: Sequence[int], wanted: int | None) -> Workers:
    """Workers for machines with so many cores each; a worker has whole cores, and all of them on one machine."""
    smallest = min(cores)
    each = smallest // 2 if wanted is None else sum(cores) // wanted
    each = max(1, min(each, smallest, MOST_CORES))
    room = sum(machine // each for machine in cores)
    return Workers(room if wanted is None else min(wanted, room), each)


@contextmanager
def joined(engine: str, *, workers: int | None) -> Iterator[Cluster]:
    """The cluster that ``engine`` names; one that is started here has room for ``workers`` and ends with the block.

    A Ray that this process uses already is used and left as it is; so is one that RAY_ADDRESS names. Raises
    RequestError when no cluster answers.
    """
    _bring_token(engine)
    import ray

    ours = not ray.is_initialized()
    try:
        if ours:
            with _quiet():
                _start(ray, engine, workers)
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = tuple(int(node["CPU"]) for node in found if node.get("CPU", 0) >= 1)
        if not cores:
            raise RequestError(f"--engine {engine}: no machine of that cluster has a core to work with.")
        yield Cluster(ray, cores, int(sum(node.get("GPU", 0) for node in found)))
    finally:
        if ours:
            ray.shutdown(wait_for_processes=True)
            _print_messages(ray, True)


def _bring_token(engine: str) -> None:
    """Have Ray send the token that it would find here, as its own commands do.

    It reads the variable when it is imported, and its client sends nothing otherwise.
    """
    found = any(map(os.environ.get, TOKENS)) or (Path.home() / TOKEN_FILE).is_file()
    if found and _is_elsewhere(engine):
        os.environ.setdefault(MODE, "token")


def _is_elsewhere(engine: str) -> bool:
    """Whether a cluster is joined that runs already."""
    return engine.startswith(CLIENT) or bool(os.environ.get(ADDRESS))


def settle(folder: str, cores: int) -> None:
    """Make this process, a worker, find files as the command does and use ``cores`` cores.

    PyTorch has its number of threads from Ray. Raises RequestError when this machine has no such folder.
    """
    os.environ[CORES] = str(cores)
    try:
        os.chdir(folder)
    except OSError:
        raise RequestError(
            f"A machine of the cluster has no folder {folder}: all of them need to see the same files."
        ) from None


def _start(ray: Any, engine: str, workers: int | None) -> None:
    _print_messages(ray, False)
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    address = engine if engine.startswith(CLIENT) else os.environ.get(ADDRESS, "")
    try:
        _reach(address)
        if engine.startswith(CLIENT):
            ray.init(engine, **quiet)
        elif address:
            ray.init(**quiet)
        else:
            cores = max(available_cores(), workers or 0)
            ray.init(
                "local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_BYTES,
                # Without a bound, work that is too large for the machine would be begun for ever.
                _system_config={"task_oom_retries": RETRIES},
                **quiet,
            )
    except (OSError, RuntimeError, ValueError) as problem:
        said = first_line(problem, most=160)
        hint = " Does it ask for a token? Then RAY_AUTH_TOKEN must hold it." if _is_elsewhere(engine) else ""
        raise RequestError(f"--engine {engine}: no Ray answers ({said.rstrip('.')}).{hint}") from None


def _print_messages(ray: Any, wanted: bool) -> None:
    """Whether a thread of Ray prints what its machines report; no argument of ``init`` keeps it off standard output."""
    ray._private.worker._worker_logs_enabled = wanted


def _reach(address: str) -> None:
    """Raise OSError when nothing listens at HOST:PORT, where Ray itself would try for minutes."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray begins without messages of its own, and without taking SIGTERM from this program."""
    told = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        with warnings.catch_warnings():
            # That no client server answers is said in a sentence of ours.
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        if told is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = told
