"""When a shim writes to its agent. Pure, standard library only, Python >= 3.8.

Each write costs all hops up to the page a turn. What nobody waits for, that a cell begins, goes
with what comes next: most cells have something to say within `PATIENCE`.
"""

from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035

from gateway.frames import IOPUB

# Seconds that something may wait for company.
PATIENCE = 0.005


def can_wait(channel: int, parts: Sequence[Any]) -> bool:
    """Whether a message of the kernel only says that it begins with something."""
    if channel != IOPUB:
        return False
    if b'"status"' in parts[0]:
        return b'"busy"' in parts[3]
    return b'"execute_input"' in parts[0]


class Haste:
    """`until`: when what waits is to be written, None while nothing waits. Seconds of one clock."""

    def __init__(self) -> None:
        self.until: float | None = None
        self._now = False

    def hurry(self) -> None:
        """There is something that somebody waits for."""
        self._now = True

    def wait(self, now: float) -> None:
        """There is something that can wait."""
        if self.until is None:
            self.until = now + PATIENCE

    def due(self, now: float) -> bool:
        """Whether to write all there is, now."""
        if not self._now and (self.until is None or now < self.until):
            return False
        self._now, self.until = False, None
        return True
