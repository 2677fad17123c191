"""Which processes belong to a part of sessionkeeper, and how to end all of them.

Every part is started with `SESSIONKEEPER_PART=<instance>/<part>` in its environment, which its
descendants inherit. Unlike a recorded process id it cannot come to mean somebody else's process.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["PART", "children_of", "descendants", "end_all", "parents", "part_of", "parts"]

PART = "SESSIONKEEPER_PART"


def parents() -> dict[int, int]:
    """Process id -> parent's, of all live processes (no zombies) that can be seen."""
    table = {}
    for pid in _all_pids():
        with suppress(OSError):
            # The name between the parentheses may itself hold spaces and parentheses.
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                table[pid] = int(parent)
    return table


def children_of(pid: int) -> set[int]:
    """Processes whose parent it is."""
    return {child for child, parent in parents().items() if parent == pid}


def descendants(pid: int) -> set[int]:
    """Children of a process, their children, and so on."""
    table = parents()
    found: set[int] = set()
    generation = {pid}
    while generation:
        generation = {c for c, parent in table.items() if parent in generation} - found
        found |= generation
    return found


def part_of(instance: str, part: str) -> dict[str, str]:
    """The environment variable that marks the processes of a part."""
    return {PART: f"{instance}/{part}"}


def parts(instance: str) -> dict[int, str]:
    """Process id -> part, of all processes of an instance but this one and its ancestors."""
    prefix = f"{PART}={instance}/".encode()
    table = parents()
    mine = _lineage(os.getpid(), table)
    found = {}
    for pid in table.keys() - mine:
        with suppress(OSError):
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if variable.startswith(prefix):
                    found[pid] = variable[len(prefix) :].decode(errors="replace")
    return found


def end_all(find: Callable[[], Iterable[int]], timeout: float = 5.0) -> set[int]:
    """SIGKILL to everything that `find` finds, and wait until it is dead. Each is stopped first,
    until nothing new is found, so that nothing can fork its way out. Returns what lives on after
    `timeout` seconds: normally nothing."""
    handles: dict[int, int] = {}
    try:
        while fresh := set(find()) - handles.keys():
            for pid in fresh:
                with suppress(ProcessLookupError, PermissionError):
                    handles[pid] = os.pidfd_open(pid)
                    signal.pidfd_send_signal(handles[pid], signal.SIGSTOP)
            if not fresh & handles.keys():
                break
        for handle in handles.values():
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        return _await_end(handles, time.monotonic() + timeout)
    finally:
        for handle in handles.values():
            os.close(handle)


def _await_end(handles: dict[int, int], deadline: float) -> set[int]:
    poll = select.poll()
    waiting = {handle: pid for pid, handle in handles.items()}
    for handle in waiting:
        poll.register(handle, select.POLLIN)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left * 1000):
            poll.unregister(handle)
            del waiting[handle]
    return set(waiting.values())


def _lineage(pid: int, table: dict[int, int]) -> set[int]:
    line = set()
    while pid and pid not in line:
        line.add(pid)
        pid = table.get(pid, 0)
    return line


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
