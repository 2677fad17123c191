"""Notices by the wishes of a volunteer machine's owner: :mod:`sessionkeeper.notices.policy`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices import bus
from sessionkeeper.notices.notice import Notice
from sessionkeeper.notices.policy import PATIENCE, Machine, Policy, plugged_in, wish

__all__ = ["Owner"]

EVERY = 5.0
SUPPLIES = Path("/sys/class/power_supply")
_FILES = ("type", "online", "status", "scope")


class Owner:
    """Looks every ``every`` seconds. ``address``: of the bus that logind is on, who knows whether
    somebody uses the machine (its ``IdleHint``); None: the system's.
    """

    name = "owner"

    def __init__(
        self,
        policy: Policy,
        *,
        address: str | None = None,
        supplies: Path = SUPPLIES,
        now: Callable[[], datetime] = datetime.now,
        every: float = EVERY,
    ) -> None:
        self._policy = policy
        self._address = address
        self._supplies = supplies
        self._now = now
        self._every = every
        self._held: Notice | None = None

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        said = None
        async with contextlib.AsyncExitStack() as stack:
            away = self._policy.away
            logind = await stack.enter_async_context(bus.logind(self._address)) if away else None
            while True:
                idle = bool(await logind.get("IdleHint")) if logind else None
                machine = Machine(plugged_in(read_supplies(self._supplies)), idle)
                why = wish(self._policy, machine, self._now())
                if why is None:
                    self._held = None
                elif self._held is None:
                    self._held = Notice(self.name, why, clock() + PATIENCE)
                elif self._held.reason != why:  # it has been wanted back since before
                    self._held = Notice(self.name, why, self._held.deadline)
                now = frozenset({self._held} if self._held else ())
                if now != said:
                    said = now
                    yield now
                await asyncio.sleep(self._every)

    async def drained(self) -> None:
        """The owner does not wait for it."""


def read_supplies(directory: Path) -> list[dict[str, str]]:
    """Return what the machine says of each power supply."""
    found = []
    for supply in sorted(directory.glob("*")):
        facts = {}
        for name in _FILES:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                facts[name] = (supply / name).read_text().strip()
        found.append(facts)
    return found
