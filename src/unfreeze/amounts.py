"""Amounts as a person says them: counts, bytes and seconds."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 epoch``, ``1,200 epochs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float) -> str:
    """Bytes as a person says them: ``512 bytes``, ``43 kB``, ``0.8 MB``, ``12 MB``, ``1.5 GB``."""
    if count >= 995e6:
        return f"{count / 1e9:.1f} GB"
    if count >= 1e5:
        return f"{count / 1e6:.1f} MB" if count < 9.95e6 else f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else counted(round(count), "byte")


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.42 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 04 min``."""
    if seconds < 0.01:
        return "less than 0.01 s"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
