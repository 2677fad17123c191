"""Notices of a computer that is switched off, or goes to sleep: because somebody said so, or closed
its lid.

systemd-logind asks whoever holds a *delay inhibitor* for patience: it sends ``PrepareForShutdown``
or ``PrepareForSleep`` with true and goes on when the inhibitor's descriptor is closed, or after
``InhibitDelayMaxUSec`` (5 s if nobody set ``InhibitDelayMaxSec=`` in logind.conf). With false it
has woken up again, or thought better of it. A closed lid is a sleep, or a shutdown, like another.

Sources: systemd, org.freedesktop.login1(5), "Inhibitor Locks" (systemd.io/INHIBITOR_LOCKS).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices import bus
from sessionkeeper.notices.notice import Notice, SourceFailed

__all__ = ["LogindSource"]

_WORDS = {
    "PrepareForShutdown": "it is being switched off",
    "PrepareForSleep": "it goes to sleep",
}


class LogindSource:
    """Holds a delay inhibitor while it is watched. ``address``: of the bus; None: the system's."""

    name = "logind"

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._inhibitor: int | None = None

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        held: dict[str, Notice] = {}
        try:
            async with bus.logind(self._address) as logind:
                arrived = await logind.signals()
                patience = float(await logind.get("InhibitDelayMaxUSec")) / 1e6
                await self._inhibit(logind)
                # What was announced before we listened is not announced again.
                for member, flag in (
                    ("PrepareForShutdown", "PreparingForShutdown"),
                    ("PrepareForSleep", "PreparingForSleep"),
                ):
                    if await logind.get(flag):
                        held[member] = Notice(self.name, _WORDS[member], clock() + patience)
                yield frozenset(held.values())
                while True:
                    member, arguments = await arrived.get()
                    if member == "gone":
                        raise SourceFailed("logind has ended")
                    if member not in _WORDS or len(arguments) != 1:
                        continue
                    if arguments[0] and member not in held:
                        held[member] = Notice(self.name, _WORDS[member], clock() + patience)
                    elif not arguments[0] and member in held:
                        del held[member]
                        await self._inhibit(logind)
                    else:
                        continue
                    yield frozenset(held.values())
        finally:
            self._release()

    async def drained(self) -> None:
        """Let the machine go."""
        self._release()

    async def _inhibit(self, logind: bus.Logind) -> None:
        self._release()
        answer = await logind.call(
            "Inhibit",
            "ssss",
            "shutdown:sleep",
            "sessionkeeper",
            "Notebook sessions move to another machine",
            "delay",
        )
        self._inhibitor = answer.unix_fds[answer.body[0]]

    def _release(self) -> None:
        inhibitor, self._inhibitor = self._inhibitor, None
        if inhibitor is not None:
            with contextlib.suppress(OSError):
                os.close(inhibitor)
