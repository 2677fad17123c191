"""Telling those who wait that something is different."""

from __future__ import annotations

import asyncio
import contextlib


class Changes:
    """One that works, and is woken by :meth:`note`; many that watch, and are woken by
    :meth:`tell`.
    """

    def __init__(self) -> None:
        self._noted = asyncio.Event()
        self._watchers: set[asyncio.Future[None]] = set()

    def note(self) -> None:
        """Something that may matter to the one that works has changed."""
        self._noted.set()

    def look(self) -> None:
        """The one that works looks at everything now: what was noted before is seen."""
        self._noted.clear()

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
