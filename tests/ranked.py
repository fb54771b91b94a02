"""Processes that train together, forked from the test's own so that imports are paid once."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What every process would import for itself, a second or two each.
import accelerate  # noqa: F401
import torch
import torch.distributed.fsdp
import torch.distributed.tensor

from unfreeze.engine.launching import gathered


def together(
    count: int, folder: Path, work: Callable[[Any], Any], *, lost: tuple[int, ...] = ()
) -> list[Any]:
    """What ``work(ranks)`` gives in each of ``count`` processes, or the exception that it raised.

    Ranks in ``lost`` are expected to be killed, and give None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ |= {
                    "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                    "RANK": str(rank), "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                }  # fmt: skip
                torch.set_num_threads(1)
                _answer(folder / f"{rank}.answer", work)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    answers = []
    for rank, child in enumerate(children):
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == (-signal.SIGKILL if rank in lost else 0), f"process {rank} ended with {ended}"
        answers.append(None if rank in lost else pickle.loads((folder / f"{rank}.answer").read_bytes()))  # noqa: S301 - our own
    return answers


def _answer(path: Path, work: Callable[[Any], Any]) -> None:
    with gathered("cpu") as ranks:
        try:
            answer = work(ranks)
        except Exception as problem:
            answer = problem
        path.write_bytes(pickle.dumps(answer))
