"""Room in a kernel's journal: who reads slowly holds the kernel back, but not for ever.

Clients read the journal at their own pace, and what they have not read stays. When it is full
nothing is acknowledged, so that the shim's credit runs out and it reads no more of its kernel: that
one kernel waits, and nothing is lost. A client that has not read on for a minute meanwhile (a tab
on a suspended laptop, say) is left behind: the kernel goes on, and the client is told, when it
reads again, how many messages are gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from gateway.feed import Feed
from gateway.journal import OutputLog

log = logging.getLogger(__name__)

LOOK = 0.1
PATIENCE = 60.0


class Room:
    """Of one journal, for its readers. `again()` is called when there is room once more."""

    def __init__(
        self, outputs: OutputLog, readers: Collection[Feed], again: Callable[[], None]
    ) -> None:
        self._outputs = outputs
        self._readers = readers
        self._again = again
        self._timer: asyncio.TimerHandle | None = None
        self._seen: dict[Feed, tuple[int, float]] = {}
        self._behind: dict[Feed, int] = {}
        outputs.passed = self._passed

    def awaited(self) -> bool:
        """Whether there is no room now; `again` follows then."""
        if self._timer is not None:
            return True
        if not self._outputs.full:
            return False
        self._look()
        return self._timer is not None

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> int:
        return min(
            (f.position for f in self._readers if self._behind.get(f) != f.position),
            default=self._outputs.last,
        )

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, waited = loop.time(), self._timer is not None
        self._timer = None
        for reader in self._readers:
            at, since = self._seen.get(reader, (-1, now))
            if at != reader.position:
                self._seen[reader] = (reader.position, now)
            elif now - since >= PATIENCE and reader.position < self._outputs.last:
                if self._behind.get(reader) != at:
                    log.warning("a client has read nothing for %.0f s and is left behind", PATIENCE)
                self._behind[reader] = at
        self._outputs.trim()
        if self._outputs.full:
            self._timer = loop.call_later(LOOK, self._look)
            return
        self._seen.clear()
        self._behind = {f: at for f, at in self._behind.items() if f in self._readers}
        if waited:
            self._again()
