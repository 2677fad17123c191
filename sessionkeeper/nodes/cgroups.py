"""Control groups of nodes, in whatever mix of versions 1 and 2 the machine has.

A node's kernels live below `/sessionkeeper-<instance>/<node>` in each hierarchy; the agent's OCI
runtime makes the groups, this module makes sure that none is left.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["freeze", "freezer", "hierarchies", "remove", "thaw"]

_FREEZERS = (
    ("freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"),
    ("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"),
)
"""Of versions 1 and 2: what is written where, and which file says when it is so."""


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
