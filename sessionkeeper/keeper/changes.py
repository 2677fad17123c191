"""Telling those who wait that something is different."""

from __future__ import annotations

import asyncio
import contextlib

SOON = 0.1
"""Seconds; nothing that follows from a cell's beginning or end is due sooner than some times that
(``sessionkeeper.policy``)."""


class Changes:
    """One that works, and is woken by :meth:`note`; many that watch, and are woken by
    :meth:`tell`.
    """

    def __init__(self) -> None:
        self._noted = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._watchers: set[asyncio.Future[None]] = set()

    def note_soon(self) -> None:
        """As :meth:`note`, of what may happen hundreds of times a second, in the middle of what a
        user waits for: all of it within ``SOON`` seconds is noted once.
        """
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON, self.note)

    def note(self) -> None:
        """Something that may matter to the one that works has changed."""
        self._noted.set()

    def look(self) -> None:
        """The one that works looks at everything now: what was noted before is seen."""
        self._noted.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    async def idle(self, seconds: float | None = None) -> bool:
        """Wait until something was noted since the last :meth:`look`, or for ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._noted.wait()
                return True
        return False

    def tell(self) -> None:
        """What others watch is different."""
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    async def watch(self) -> None:
        """Wait until the next :meth:`tell`."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        await watcher
