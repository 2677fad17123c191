"""Which files processes have mapped to write into: such writes leave no time stamp for a while.

And which they have in use at all: they cannot be restored without those; and how much memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from sessionkeeper.nodes.cgroups import hierarchies


def processes_of(cgroup: str) -> list[int]:
    """Return the ids of the processes in a cgroup, whichever hierarchy has it."""
    for root in hierarchies():
        with contextlib.suppress(OSError):
            return [
                int(pid) for pid in (root / cgroup.strip("/") / "cgroup.procs").read_text().split()
            ]
    return []


def own_memory(pid: int) -> int:
    """Return the bytes of memory that a process has for itself (proc_pid_statm(5)); 0 of one that
    has ended.
    """
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def written_through(pids: Iterable[int]) -> frozenset[bytes]:
    """Return the files that any of ``pids`` has mapped shared and writable, as it sees them and
    without the leading slash (proc_pid_maps(5)).
    """
    found: set[bytes] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
                fields = line.split(None, 5)
                if len(fields) == 6 and fields[1][1:4:2] == b"ws" and fields[5].startswith(b"/"):
                    found.add(fields[5].lstrip(b"/"))
    return frozenset(found)


def in_use(pids: Iterable[int]) -> frozenset[bytes]:
    """Return the files that any of ``pids`` has open or mapped, and its working directory, as it
    sees them and without the leading slash (proc_pid_fd(5), proc_pid_maps(5)).
    """
    found: set[bytes] = set()
    for pid in pids:
        process = b"/proc/%d" % pid
        with contextlib.suppress(OSError):
            links = [process + b"/cwd", *(e.path for e in os.scandir(process + b"/fd"))]
            for link in links:
                with contextlib.suppress(OSError):
                    found.add(os.readlink(link))
            for line in Path(os.fsdecode(process), "maps").read_bytes().splitlines():
                found.add(line.split(None, 5)[-1])
    return frozenset(path.lstrip(b"/") for path in found if path.startswith(b"/"))


def below(paths: Iterable[bytes], directory: Path) -> frozenset[bytes]:
    """Return those of ``paths`` (without leading slash) below ``directory``, relative to it."""
    prefix = os.fsencode(directory).strip(b"/") + b"/"
    return frozenset(path.removeprefix(prefix) for path in paths if path.startswith(prefix))
