"""A side of a bench as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from unfreeze.comparing.meter import Meter


def run_json(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object of a command's last line, with what the command took.

    ``command_seconds``; ``peak_bytes``: its largest memory; ``joules``: of all processor packages meanwhile, whoever
    used them, or None where the machine does not tell. ``environment`` is added to that
    of this process. Ends the bench with what the command said when it failed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with Meter() as meter:
            started = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=out, stderr=err, env=os.environ | dict(environment or {})
            )
            # As subprocess.run would wait, but told what the process and its children have used.
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            said = err.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}:\n{said}")
        result = json.loads(out.read().decode().splitlines()[-1])
    took = {"command_seconds": seconds, "peak_bytes": used.ru_maxrss * 1024, "joules": meter.joules}
    return result | took
