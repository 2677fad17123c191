"""Control groups of nodes, in whatever mix of versions 1 and 2 the machine has.

A node's kernels live below `/sessionkeeper-<instance>/<node>` in each hierarchy; the agent's OCI
runtime makes the groups, this module makes sure that none is left.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["freeze", "freezer", "hierarchies", "limit_memory", "ran_out", "remove", "thaw"]

_FREEZERS = (
    ("freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"),
    ("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"),
)
"""Of versions 1 and 2: what is written where, and which file says when it is so."""


_LIMITS = "memory.limit_in_bytes", "memory.max"
_KILLS = "memory.oom_control", "memory.events"
"""Of versions 1 and 2: where a limit is written, and where it is counted who was killed for it."""


def hierarchies() -> list[Path]:
    """Where the hierarchies are mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def freezer(name: str) -> Path:
    """The directory of a group through which it is frozen. Raises `FileNotFoundError`."""
    for root in hierarchies():
        top = root / name.strip("/")
        if any((top / file).exists() for file, *_ in _FREEZERS):
            return top
    raise FileNotFoundError(f"there is no control group {name} that can be frozen")


_PERIOD = 100_000
"""Microseconds in which a group may use so many of processor time: the kernel's default."""


def limit(name: str, cores: int | None, memory: int | None) -> list[str]:
    """Make a group, and have all that is in it and below use so many cores and bytes of memory at
    most. Returns what of it cannot be had here, in words. Source: Linux, cgroup-v2.rst, and
    sched-bwc.rst and memory.rst for version 1.
    """
    wanted: dict[str, dict[str, str]] = {}
    if cores is not None:
        quota = str(cores * _PERIOD)
        wanted["cores"] = {"cpu.cfs_quota_us": quota, "cpu.max": f"{quota} {_PERIOD}"}
    if memory is not None:
        wanted["memory"] = {"memory.limit_in_bytes": str(memory), "memory.max": str(memory)}
    left = dict.fromkeys(wanted)
    for root in hierarchies() if wanted else []:
        top = root / name.strip("/")
        with suppress(OSError):
            top.mkdir(parents=True, exist_ok=True)
        for above in reversed([one for one in top.parents if one.is_relative_to(root)]):
            with suppress(OSError):  # version 2 alone has it
                (above / "cgroup.subtree_control").write_text("+cpu +memory")
        for what, files in wanted.items():
            for file, value in files.items():
                with suppress(OSError):
                    if (top / file).exists():
                        (top / file).write_text(value)
                        left.pop(what, None)
    return list(left)


def freeze(name: str, timeout: float = 10.0) -> None:
    """Freeze everything below a group. Returns when it stands still; raises `TimeoutError` when
    that took more than `timeout` (seconds), it goes on then, and `FileNotFoundError` when there is
    no such group.
    """
    top = freezer(name)
    file, on, off, told, done = next(one for one in _FREEZERS if (top / one[0]).exists())
    deadline = time.monotonic() + timeout
    while not _stands(top / file, on, top / told, done):
        # One that has called exec waits for its other threads to end, and these are frozen: let it
        # have that, and try again.
        (top / file).write_text(off)
        if time.monotonic() > deadline:
            raise TimeoutError(f"it took more than {timeout:.0f} s")
        time.sleep(0.002)


def _stands(file: Path, word: str, told: Path, done: str) -> bool:
    """Whether a group is frozen a moment after it was asked to be."""
    file.write_text(word)
    patience = time.monotonic() + 0.05
    while done not in told.read_text():
        if time.monotonic() > patience:
            return False
        time.sleep(0.0005)
    return True


def thaw(name: str) -> None:
    """Thaw everything below a group. In version 1 a frozen process does not die of SIGKILL."""
    for group in _groups(name):
        for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                if (group / file).exists():
                    (group / file).write_text(word)


def limit_memory(name: str, size: int) -> None:
    """Let all that is below a group use `size` bytes together. Raises `OSError`;
    `FileNotFoundError` when memory is not counted there.
    """
    for file in _files(name, _LIMITS):
        file.write_text(str(size))
        return
    raise FileNotFoundError(f"there is no control group {name} whose memory can be limited")


def ran_out(name: str) -> bool:
    """Whether a process of the group was killed because memory had run out."""
    for file in _files(name, _KILLS):
        with suppress(OSError):
            counts = dict(line.split() for line in file.read_text().splitlines())
            return int(counts.get("oom_kill", 0)) > 0
    return False


def _files(name: str, names: tuple[str, ...]) -> list[Path]:
    found = (root / name.strip("/") / one for root in hierarchies() for one in names)
    return [file for file in found if file.exists()]


def remove(name: str, timeout: float = 2.0) -> list[Path]:
    """Remove a group and all below it in every hierarchy. Its processes must be dead; the kernel
    may take a moment to notice, so a busy group is tried again until `timeout` (seconds). Returns
    what could not be removed."""
    deadline = time.monotonic() + timeout
    while left := _remove_empty(name):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)  # Version 1 has no event for "empty".
    return []


def _remove_empty(name: str) -> list[Path]:
    for group in _groups(name):
        with suppress(OSError):
            group.rmdir()
    return _groups(name)


def _groups(name: str) -> list[Path]:
    """The groups of that name and below it, innermost first."""
    found = []
    for root in hierarchies():
        top = root / name.strip("/")
        if top.is_dir():
            found += [*(one for one in top.rglob("*") if one.is_dir()), top]
    return sorted(found, key=lambda group: len(group.parts), reverse=True)
