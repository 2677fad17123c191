"""What an agent would have to know if it were started again: its sessions, and its lease.

Kernels and shims outlive their agent. A new one finds here what the old one had, links up with the
shims and goes on, if the lease it was granted has not ended meanwhile.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

_LEASE = 32
"""Bytes of the lease's file, more than a number has."""


def clock() -> float:
    """Seconds on this machine's monotonic clock, those included in which it was asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ledger:
    """Small files in ``directory``, readable by the node's root alone: they hold session keys.

    They are for another process on a machine that is still up, so nothing is synced to disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lease = -1  # its file, open
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def instance(self) -> str:
        """Return what tells this node from any other, also from one of the same name after it."""
        path = self._directory / "instance"
        if not path.exists():
            self._write("instance", secrets.token_hex(8))
        return path.read_text()

    def sessions(self) -> list[dict[str, Any]]:
        """Return what was remembered of each session."""
        return [json.loads(path.read_text()) for path in self._directory.glob("*.session")]

    def remember(self, session: str, facts: dict[str, Any]) -> None:
        """Keep ``facts`` about a session, in place of what was kept before."""
        self._write(f"{session}.session", json.dumps(facts))

    def forget(self, session: str) -> None:
        """The session is not here any more."""
        (self._directory / f"{session}.session").unlink(missing_ok=True)

    def lease(self) -> float:
        """Return when the lease ends, on this machine's monotonic clock; 0.0: there is none."""
        try:
            until = float((self._directory / "lease").read_text())
        except (FileNotFoundError, ValueError):
            return 0.0
        # The clock begins anew when the machine does.
        return until if until < clock() + 3600 else 0.0

    def granted(self, until: float) -> None:
        """The lease ends at ``until``. In place, as that is written several times a second between
        messages; who reads it does when this process has ended.
        """
        if self._lease < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._lease = os.open(self._directory / "lease", flags, 0o600)
        os.pwrite(self._lease, f"{until!r:<{_LEASE}}".encode(), 0)

    def _write(self, name: str, text: str) -> None:
        temporary = self._directory / f"{name}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        temporary.rename(self._directory / name)
