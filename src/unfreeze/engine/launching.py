"""Starting the processes of one training, and joining those that another launcher has started.

torchrun, ``accelerate launch`` and ``--devices`` all tell a process its place in the same variables of the environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from unfreeze.engine.ranks import ALONE, Ranks, Sharding
from unfreeze.errors import RequestError, UnfreezeError
from unfreeze.executors.processor import available_cores

# The first process may choose, probe and measure for hours while the others wait for what it says next.
PATIENCE = timedelta(days=7)
# How long the others may take to save and go when one process has ended, and then to go at all.
SAVING_SECONDS, LEAVING_SECONDS = 60.0, 10.0
POLL_SECONDS = 0.05


def is_joined() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def gathered(device: str) -> Iterator[Ranks]:
    """The ranks of the processes that were started together, on ``device``; alone without a launcher.

    Raises RequestError for a launcher that asks for weights cut in a way that is not this engine's, and UnfreezeError
    where the processes do not find each other: alone, each would take what the others were to write for granted.
    """
    if not is_joined():
        yield ALONE
        return
    sharding = _sharding()
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    # Without a GPU and without being told, it takes each process for one that is alone.
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise UnfreezeError(
            f"{os.environ['WORLD_SIZE']} processes were started together, and {state.num_processes} found each other: "
            "name the device with --device cpu or --device cuda."
        )
    try:
        yield Ranks(
            rank=state.process_index,
            count=state.num_processes,
            local=state.local_process_index,
            local_count=int(os.environ.get("LOCAL_WORLD_SIZE", str(state.num_processes))),
            objects=dist.new_group(backend="gloo", timeout=PATIENCE),
            sharding=sharding,
        )
    finally:
        # Another process that is gone already must not hide why.
        with contextlib.suppress(RuntimeError):
            state.destroy_process_group()


def _sharding() -> Sharding | None:
    """How the launcher wants weights to be cut, as `accelerate config` has set it up; None where it does not."""
    if _asked_for("ACCELERATE_USE_DEEPSPEED"):
        raise RequestError(
            "The launcher asks for DeepSpeed, which is not supported: let `accelerate config` set up FSDP, version 2, "
            "where training does not fit into one device, and else plain multi-GPU."
        )
    if not _asked_for("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RequestError(
            "The launcher asks for the first version of FSDP, and weights are cut by the second here: set "
            "fsdp_version: 2 with `accelerate config`, or --fsdp_version 2."
        )
    if _asked_for("FSDP_OFFLOAD_PARAMS") or _asked_for("FSDP_ACTIVATION_CHECKPOINTING"):
        raise RequestError(
            "The launcher asks FSDP to offload weights or to compute activations anew, which is not supported: set "
            "fsdp_offload_params and fsdp_activation_checkpointing to false with `accelerate config`."
        )
    # The plugin of accelerate would also refuse settings that do not count here, such as those of the first version.
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()
    if reshard not in ("true", "false"):
        raise RequestError(
            f"The launcher asks FSDP for fsdp_reshard_after_forward {reshard!r}: set it to true or false with "
            "`accelerate config`."
        )
    return Sharding(reshard=reshard == "true")


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("true", "1", "yes")


def check_devices(count: int, device: str | None) -> None:
    """Raise RequestError when this machine has not so many devices of the kind."""
    if count < 1:
        raise RequestError(f"--devices must be at least 1, not {count}.")
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            if count > torch.cuda.device_count():
                raise RequestError(
                    f"--devices {count}: this machine has {torch.cuda.device_count()} GPUs. Ask for fewer."
                )
            return
    if count > available_cores():
        raise RequestError(
            f"--devices {count}: without GPUs each process needs a core, and there are {available_cores()}. Ask for "
            "fewer; one process uses all cores."
        )


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m unfreeze ARGUMENTS`` in ``count`` processes that train together; the first one's exit status.

    When one ends before its time the others may save what they have; then they are ended.
    """
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(max(1, available_cores() // count)),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "unfreeze", *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    # A terminal's Ctrl-C reaches them by itself.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
    }
    try:
        _wait(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _status(processes)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Return when all have ended; those that are left behind by one that failed are asked, and then made, to go."""
    failed: float | None = None
    while any(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
        if failed is None and any(process.poll() not in (None, 0) for process in processes):
            failed = time.monotonic()
        late = 0.0 if failed is None else time.monotonic() - failed
        for process in processes:
            if process.poll() is None and late > SAVING_SECONDS + LEAVING_SECONDS:
                process.kill()
            elif process.poll() is None and late > SAVING_SECONDS:
                process.terminate()


def _status(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """The first process's status, as a shell would have it; its own failure tells more than that of another."""
    status = processes[0].returncode
    if status < 0:
        sys.stderr.write(
            f"Error: The first process was ended by signal {-status}. Continue with the same command and --resume.\n"
        )
        return 128 - status
    return status


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
