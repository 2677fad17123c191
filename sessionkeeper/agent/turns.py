"""Whose turn it is on this node's processors.

A dump, or a restore, keeps a processor busy for as long as it takes. Twenty at once would take as
long together as one after the other, but then each kernel would stand still for all of that time,
and at a deadline all would be half done instead of most of them.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sessionkeeper.agent.errors import KernelBusy

QUIET = 0.5
"""Seconds without anybody's turn after which there is time for what nobody waits for."""

SPARES = 4
"""Sessions on a node that are given a spare each: it takes the memory of a kernel."""


def processors() -> int:
    """Return how many this process may use."""
    return len(os.sched_getaffinity(0))


class Turns:
    """``at_once`` have their turn at the same time, the others wait in order: first who is urgent.

    Who is not gives up waiting when somebody urgent comes: what it wanted to save may be about to
    be saved for good.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._free = at_once or max(2, processors())
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._under_way = 0
        self._since = 0.0
        self._nobody = asyncio.Event()
        self._nobody.set()

    @asynccontextmanager
    async def turn(self, *, urgent: bool = True) -> AsyncIterator[None]:
        """Wait for a turn, and have it. Raises :class:`KernelBusy` for who gives up."""
        self._under_way += 1
        self._nobody.clear()
        try:
            await self._wait(urgent)
            try:
                yield
            finally:
                self._pass_on()
        finally:
            self._under_way -= 1
            self._since = asyncio.get_running_loop().time()
            if not self._under_way:
                self._nobody.set()

    async def quiet(self) -> None:
        """Wait until nobody has had, or has waited for, a turn for a while."""
        clock = asyncio.get_running_loop().time
        await self._nobody.wait()
        while (left := self._since + QUIET - clock()) > 0:
            await asyncio.sleep(left)
            await self._nobody.wait()

    async def _wait(self, urgent: bool) -> None:
        if urgent:
            while self._others:
                given_up = self._others.popleft()
                if not given_up.done():
                    given_up.set_exception(KernelBusy("the node has more urgent things to do"))
        if self._free:
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._pass_on()  # it had just been given its turn
            raise

    def _pass_on(self) -> None:
        for waiting in (self._urgent, self._others):
            while waiting:
                following = waiting.popleft()
                if not following.done():
                    following.set_result(None)
                    return
        self._free += 1
