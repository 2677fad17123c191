"""This node will go: the gateway is told, and who gave notice hears when nothing is left here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.notice import Notice, NoticeSource, what_counts

__all__ = ["Departure"]

log = logging.getLogger(__name__)


class Departure:
    """Follows ``source``. ``tell`` sends an event to the gateway, if it is there; ``empty`` says
    whether no session is on this node, nor on its way here.
    """

    def __init__(
        self,
        source: NoticeSource,
        tell: Callable[[dict[str, Any]], None],
        empty: Callable[[], bool],
    ) -> None:
        self._source = source
        self._tell = tell
        self._empty = empty
        self._held: frozenset[Notice] | None = None
        self._notice: Notice | None = None
        self._told = 0.0
        self._heard = asyncio.Event()
        """The gateway has read what holds."""

    async def run(self) -> None:
        """Until cancelled."""
        leaving = asyncio.create_task(self._let_go())
        try:
            async for held in self._source.watch():
                first, self._held = self._held is None, held
                notice = what_counts(held)
                if notice != self._notice or first:
                    self._notice = notice
                    self._log()
                    self.connected()
        finally:
            leaving.cancel()

    def connected(self) -> None:
        """The gateway is there, maybe another one: it is told what holds, if that is known."""
        if self._held is None:
            return
        notice = self._notice
        self._told = clock()
        self._heard.clear()
        self._tell(
            {
                "event": "notice",
                "reason": notice.reason if notice else None,
                "seconds": notice.left() if notice else None,
            }
        )

    def leased(self, sent: float) -> None:
        """The gateway has read what was sent up to ``sent``, on :func:`clock`."""
        if self._notice is not None and self._told <= sent:
            self._heard.set()

    async def _let_go(self) -> None:
        """Whoever gave notice need not wait for a node with nothing on it. The gateway sends no
        session here after it has read the notice, and what it sent before is here by its answer.
        """
        told: frozenset[Notice] | None = None
        while True:
            await self._heard.wait()
            self._heard.clear()  # set again with the next lease
            if self._held != told and self._notice and self._empty():
                told = self._held
                log.info("nothing is left on this node")
                await self._source.drained()

    def _log(self) -> None:
        if self._notice is None:
            log.info("no notice: this node stays")
            return
        left = self._notice.left()
        when = "nobody knows when" if left is None else f"in {left:.0f} s"
        log.warning("this node goes, %s: %s", when, self._notice.reason)
