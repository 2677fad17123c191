"""Whether this machine's processors have time for what nobody waits for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

__all__ = ["PATIENCE", "idle_seconds", "one_rests", "rest"]

LOOK = 0.2
"""Seconds between two looks: less than it takes until a machine counts as being at rest."""

PATIENCE = 20.0
"""Seconds after which it is done on a machine that never rests."""

_RESTS = 0.7


def idle_seconds() -> float | None:
    """How long this machine's processors, all together, have had nothing to do since it was started
    (proc_stat(5): idle and iowait); None where that cannot be told."""
    try:
        told = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return (int(told[4]) + int(told[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None


def one_rests(before: float | None, now: float | None, seconds: float) -> bool:
    """Whether one processor, or some together, did nothing for most of so many seconds; yes where
    that cannot be told."""
    return before is None or now is None or now - before >= _RESTS * seconds


async def rest(patience: float = PATIENCE) -> None:
    """Wait until one processor has had hardly anything to do for a moment; so many seconds at
    most."""
    clock = asyncio.get_running_loop().time
    since = began = clock()
    before = idle_seconds()
    while since - began < patience:
        await asyncio.sleep(LOOK)
        now, idle = clock(), idle_seconds()
        if one_rests(before, idle, now - since):
            return
        since, before = now, idle
