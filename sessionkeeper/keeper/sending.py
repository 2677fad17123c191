"""How much of a checkpoint has come from its node, for who waits for it: over a home's line the
first one of a large session takes minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sessionkeeper.keeper.status import Status

TOLD_AFTER = 3.0
"""Seconds; of one that takes less nothing is told."""

TOLD_EVERY = 1.0

WARNED_AFTER = 10.0
"""Seconds after which it is said that nothing is saved yet."""

TOPIC = "first"


class Sending:
    """Of one session. :meth:`received` is told what comes, :meth:`begin` and :meth:`end` of a
    checkpoint.
    """

    def __init__(self, status: Status, clock: Callable[[], float] = time.monotonic) -> None:
        self._status = status
        self._clock = clock
        self._began: float | None = None
        self._first = False
        self._bytes = 0
        self._told = 0.0

    def begin(self, *, first: bool) -> None:
        """A checkpoint is being made, the ``first`` one of the session perhaps."""
        self._began, self._first, self._bytes = self._clock(), first, 0

    def received(self, size: int) -> None:
        """So many bytes have come."""
        now = self._clock()
        self._bytes += size
        if self._began is None:
            return
        seconds = now - self._began
        if seconds < TOLD_AFTER or now - self._told < TOLD_EVERY:
            return
        self._told = now
        self._status.update(saving={"bytes": self._bytes, "seconds": round(seconds, 1)})
        if self._first and seconds >= WARNED_AFTER:
            self._status.warn(
                TOPIC,
                "nothing of the session is saved yet, its first checkpoint is on its way:"
                f" if {self._status.node} is lost before, all of it runs again",
            )

    def end(self, *, committed: bool) -> None:
        """It is committed, or given up: its node need not send again what has come."""
        self._began = None
        self._status.update(saving={})
        if committed:
            self._status.warn(TOPIC, None)
