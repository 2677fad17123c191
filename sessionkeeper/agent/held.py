"""Processes that are stopped, by a signal or by CRIU, and stand still for another reason as well.

* CRIU leaves all processes of a restored kernel stopped (`leave-stopped`). Kernels of one session
  share files, locks and ports: if one ran while another is still being restored, it could change
  what the other's image refers to.
* A process that a signal has stopped cannot be traced while it is frozen: PTRACE_SEIZE would wait
  for it to stop in another way, without end (seen with Linux 6.18, control groups version 1). A
  SIGCONT while it is frozen, and a SIGSTOP before it thaws, are seen by nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

_STOPPED_IN = "do_signal_stop"


def stopped_by_signal(pids: Iterable[int]) -> dict[int, int]:
    """Return which of ``pids``, frozen or not, a signal has stopped, each with its id as it sees it
    itself.
    """
    return {pid: inner for pid in pids if _stopped(pid) and (inner := _inner(pid)) is not None}


def runs(pids: Iterable[int], inner: int) -> bool:
    """Return whether one of ``pids`` has the id ``inner`` as it sees it itself, and still runs."""
    over = (None, "(zombie)", "(dead)")  # None: it has just gone
    return any(_inner(pid) == inner and _word(pid, "State:") not in over for pid in pids)


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to those of ``pids`` that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


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

    innermost_first = sorted(parents, key=depth, reverse=True)
    send(signal.SIGCONT, [pid for pid in innermost_first if _inner(pid) not in stopped])


def kernel_among(pids: Iterable[int]) -> int | None:
    """Return the kernel among the processes of its container: what its shim, which is the first
    process there, started first.
    """
    found = {pid: inner for pid in pids if (inner := _inner(pid)) is not None}
    shim = next((pid for pid, inner in found.items() if inner == 1), None)
    children = [pid for pid in found if shim is not None and _parent(pid) == shim]
    return min(children, key=lambda pid: found[pid], default=None)


def _stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/wchan").read_text() == _STOPPED_IN
    return False


def _parent(pid: int) -> int | None:
    return _number(pid, "PPid:")


def _inner(pid: int) -> int | None:
    """The process's id in its innermost namespace."""
    return _number(pid, "NSpid:")


def _number(pid: int, field: str) -> int | None:
    word = _word(pid, field)
    return None if word is None else int(word)


def _word(pid: int, field: str) -> str | None:
    """The last word of a line of proc_pid_status(5)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(field):
                return line.split()[-1]
    return None
