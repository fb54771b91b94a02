"""What a training takes of the machine: peak memory, and energy where the processor tells."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

POWERCAP = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")
# A package's counter starts again at about 262 kJ, which takes 15 minutes at 290 W: it is read far more often.
READ_EVERY_SECONDS = 30.0


@dataclass
class Meter:
    """Measures what happens inside ``with``.

    ``peak_bytes``: the most memory at a time, of the accelerator where one was used, else of this process (its
    libraries included). ``joules``: of all processor packages (RAPL), whoever used them; None where an accelerator was
    used, whose part they do not count. Both None where the system does not tell. ``accelerated``: whether one was used;
    its peak is that since whatever inside has last begun it anew.
    """

    peak_bytes: int | None = None
    joules: float | None = None
    accelerated: bool = False
    powercap: Path = POWERCAP
    process: Path = PROCESS
    _fresh: bool = False
    _energy: list[_Counter] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _reader: threading.Thread | None = None

    def __enter__(self) -> Meter:
        """Start from what is in use now."""
        _give_back()
        self._fresh = _reset_peak(self.process)
        self._energy = _counters(self.powercap)
        if self._energy:
            self._reader = threading.Thread(target=self._read_along, daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read both."""
        if self._reader is not None:
            self._done.set()
            self._reader.join()
            whole = all(counter.read() for counter in self._energy)
            self.joules = sum(counter.joules for counter in self._energy) if whole else None
        accelerator = _accelerator_peak()
        self.accelerated = accelerator is not None
        if self.accelerated:
            self.joules = None
        self.peak_bytes = accelerator or (_peak(self.process) if self._fresh else None)

    def _read_along(self) -> None:
        while not self._done.wait(READ_EVERY_SECONDS):
            for counter in self._energy:
                counter.read()


@dataclass
class _Counter:
    """A package's energy counter, in microjoules, which starts again at ``limit``."""

    path: Path
    limit: int
    last: int
    joules: float = 0.0

    def read(self) -> bool:
        """Add what was used since the last reading; False when it cannot be read any more."""
        now = _number(self.path)
        if now is None:
            return False
        self.joules += ((now - self.last) % self.limit if now < self.last else now - self.last) / 1e6
        self.last = now
        return True


def _counters(powercap: Path) -> list[_Counter]:
    """The counters of all processor packages; empty where one of them cannot be read."""
    found = []
    # intel-rapl:0 is a package, intel-rapl:0:0 a part of it that is counted in it already. AMD uses the same names.
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        used, limit = _number(folder / "energy_uj"), _number(folder / "max_energy_range_uj")
        if used is None or not limit:
            return []
        found.append(_Counter(folder / "energy_uj", limit, used))
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _give_back() -> None:
    """Return freed memory to the system, so that one training does not pay for the one before."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _reset_peak(process: Path) -> bool:
    """Make the peak what is in use now; False where the system cannot."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        (process / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return _peak(process) is not None


def _peak(process: Path) -> int | None:
    try:
        lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return next((int(kilobytes) * 1024 for kilobytes in found), None)


def _accelerator_peak() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    # Held, not allocated: see ``devices.peak_bytes``.
    return int(torch.cuda.max_memory_reserved()) or None
