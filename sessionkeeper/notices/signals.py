"""A plain signal as a notice: SIGTERM, of systemd, of Kubernetes, or of whoever ends us."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.notice import Notice

__all__ = ["Signal"]


class Signal:
    """The first ``number`` gives notice of ``grace`` seconds. ``stop`` is called when nothing is
    left on this node, when they have passed, or at the second one.
    """

    name = "signal"

    def __init__(
        self, grace: float, stop: Callable[[], object], number: signal.Signals = signal.SIGTERM
    ) -> None:
        self._grace = grace
        self._stop = stop
        self._number = number
        self._given: Notice | None = None
        self._came = asyncio.Event()

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        asyncio.get_running_loop().add_signal_handler(self._number, self._come)
        if self._given is None:
            yield frozenset()
        await self._came.wait()
        assert self._given is not None
        yield frozenset({self._given})
        await asyncio.Event().wait()

    async def drained(self) -> None:
        """There is nothing to wait for."""
        if self._given is not None:
            self._stop()

    def _come(self) -> None:
        if self._given is not None:
            self._stop()
            return
        loop = asyncio.get_running_loop()
        self._given = Notice(self.name, f"it was sent {self._number.name}", clock() + self._grace)
        self._came.set()
        loop.call_later(self._grace, self._stop)
