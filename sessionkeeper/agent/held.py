"""Processes that CRIU left stopped at a restore (`--leave-stopped`), and how they go on.

Kernels of one session share files, locks and ports. If one ran while another is still being
restored, it could change what the other's image refers to.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


def let_go(pids: Iterable[int], stopped: frozenset[int]) -> None:
    """Continue the processes ``pids``, except those that were stopped when they were dumped.

    ``stopped`` are process ids as the processes see them. Children go first, so that no parent that
    waits for them sees them stopped.
    """
    parents = {pid: parent for pid in pids if (parent := _parent(pid)) is not None}

    def depth(pid: int) -> int:
        steps = 0
        while (pid := parents.get(pid, 0)) and steps <= len(parents):
            steps += 1
        return steps

    for pid in sorted(parents, key=depth, reverse=True):
        if _inner(pid) not in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _parent(pid: int) -> int | None:
    return _number(pid, "PPid:")


def _inner(pid: int) -> int | None:
    """The process's id in its innermost namespace."""
    return _number(pid, "NSpid:")


def _number(pid: int, field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(field):
                return int(line.split()[-1])
    return None
