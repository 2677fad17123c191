"""Up to where a browser tab has got a kernel's messages, over restarts of the UI server.

One small file per tab and kernel, rewritten in place: that costs microseconds and survives the
end of the process. The loss of the machine's power may cost the last seconds of it, and then
a tab gets some messages twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Position", "Positions"]

_KEPT_SECONDS = 14 * 24 * 3600.0
_RECORD = 128


@dataclass(frozen=True)
class Position:
    """A cursor in a journal, as the gateway's `welcome` names it."""

    journal: str
    cursor: int


class Positions:
    """What was confirmed per (kernel, tab). A tab is known by its Jupyter session id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        oldest = time.time() - _KEPT_SECONDS
        for file in directory.iterdir():
            with contextlib.suppress(OSError):
                if file.stat().st_mtime < oldest:
                    file.unlink()

    def get(self, kernel_id: str, session_id: str) -> Position | None:
        """The newest confirmed position, None for a tab that is new."""
        try:
            journal, cursor = self._file(kernel_id, session_id).read_text().split()
            return Position(journal, int(cursor))
        except (OSError, ValueError):
            return None

    def put(self, kernel_id: str, session_id: str, position: Position) -> None:
        """Remember it. A full disk is no reason to stop: at worst messages come twice."""
        record = f"{position.journal} {position.cursor}".ljust(_RECORD).encode()
        with contextlib.suppress(OSError):
            descriptor = os.open(
                self._file(kernel_id, session_id), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                os.pwrite(descriptor, record, 0)
            finally:
                os.close(descriptor)

    def _file(self, kernel_id: str, session_id: str) -> Path:
        name = hashlib.blake2b(f"{kernel_id} {session_id}".encode(), digest_size=20).hexdigest()
        return self._directory / name
