"""Whose turn it is on this node's processors.

A dump, or a restore, keeps a processor busy for as long as it takes. Twenty at once would take as
long together as one after the other, but then each kernel would stand still for all of that time,
and at a deadline all would be half done instead of most of them. Where there is a deadline, who is
next follows from :mod:`sessionkeeper.agent.plan`, anew each time: what was measured is no promise.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from typing import Self

from sessionkeeper.agent.errors import KernelBusy, NoTimeLeft
from sessionkeeper.agent.plan import Unsaved, plan
from sessionkeeper.agent.rates import Measured

QUIET = 0.5
"""Seconds without anybody's turn after which there is time for what nobody waits for."""

SPARES = 4
"""Sessions on a node that are given a spare each: it takes the memory of a kernel."""


def processors() -> int:
    """Return how many this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Last:
    """A last checkpoint on a node that goes at ``until``, in the event loop's time."""

    unsaved: Unsaved
    until: float


class Turn:
    """Waited for with :meth:`come`, had until :meth:`over`; or both by ``async with``."""

    def __init__(self, turns: Turns, urgent: bool, last: Last | None) -> None:
        self._turns = turns
        self._urgent = urgent
        self._last = last
        self._has_come = False

    async def come(self) -> None:
        """Wait for it. Raises :class:`KernelBusy` for who gives up, and :class:`NoTimeLeft` for a
        last checkpoint that would be too late.
        """
        await self._turns.take(self._urgent, self._last)
        self._has_come = True

    def over(self) -> None:
        """It is the next one's turn; nothing happens if it was over, or has not come."""
        if self._has_come:
            self._has_come = False
            self._turns.give_back(self._last)

    async def __aenter__(self) -> Self:
        await self.come()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over()


class Turns:
    """``at_once`` have their turn at the same time, the others wait in order: first who is urgent.

    Who is not gives up waiting when somebody urgent comes: what it wanted to save may be about to
    be saved for good.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._free = at_once or processors() + 1  # each waits for the operating system now and then
        self.measured = Measured(self._free)
        self._lasts: dict[asyncio.Future[None], Last] = {}
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._under_way = 0
        self._since = 0.0
        self._unsaved = 0
        self._nobody, self._saved = asyncio.Event(), asyncio.Event()
        self._nobody.set()
        self._saved.set()

    def turn(self, *, urgent: bool = True, last: Last | None = None) -> Turn:
        """Return one to wait for: of who gives up for who is urgent, or of a ``last`` checkpoint
        that must be made by a deadline.
        """
        return Turn(self, urgent, last)

    async def take(self, urgent: bool, last: Last | None) -> None:
        """Wait for a turn, for :class:`Turn`."""
        self._under_way += 1
        self._nobody.clear()
        if last is not None:
            self._unsaved += 1
            self._saved.clear()
        try:
            await self._wait(urgent, last)
        except BaseException:
            self._left_off(last)
            raise

    def give_back(self, last: Last | None) -> None:
        """It is over."""
        self._pass_on()
        self._left_off(last)

    async def saved(self) -> None:
        """Wait until no last checkpoint with a deadline is made, or waited for."""
        await self._saved.wait()

    def _left_off(self, last: Last | None) -> None:
        if last is not None:
            self._unsaved -= 1
            if not self._unsaved:
                self._saved.set()
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

    async def _wait(self, urgent: bool, last: Last | None) -> None:
        if urgent or last is not None:
            while self._others:
                given_up = self._others.popleft()
                if not given_up.done():
                    given_up.set_exception(KernelBusy("the node has more urgent things to do"))
        if self._free and not (last and self._left(last) < self._takes(last)):
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        if last is not None:
            self._lasts[mine] = last
            loop = asyncio.get_running_loop()
            loop.call_at(last.until - self._takes(last), self._too_late, mine)
        else:
            (self._urgent if urgent else self._others).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._pass_on()  # it had just been given its turn
            raise
        finally:
            self._lasts.pop(mine, None)

    def _pass_on(self) -> None:
        following = self._next_last() or _next(self._urgent) or _next(self._others)
        if following is not None:
            following.set_result(None)
        else:
            self._free += 1

    def _next_last(self) -> asyncio.Future[None] | None:
        waiting = {one.unsaved.session: mine for mine, one in self._lasts.items()}
        if not waiting:
            return None
        left = min(map(self._left, self._lasts.values()))
        asked = (one.unsaved for one in self._lasts.values())
        first = plan(asked, self.measured.rates(), left)[0]
        if first.todo == "newest":
            return None  # each is told when it is too late for it alone
        mine = waiting[first.session]
        del self._lasts[mine]
        return mine

    def _left(self, last: Last) -> float:
        return last.until - asyncio.get_running_loop().time()

    def _takes(self, last: Last) -> float:
        """Seconds for this one alone."""
        rates = self.measured.rates()
        return rates.dumping(last.unsaved) + rates.sending(last.unsaved)

    def _too_late(self, mine: asyncio.Future[None]) -> None:
        if mine in self._lasts and not mine.done():
            session = self._lasts.pop(mine).unsaved.session
            mine.set_exception(NoTimeLeft(f"there is no time left to save session {session}"))


def _next(waiting: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    while waiting:
        following = waiting.popleft()
        if not following.done():
            return following
    return None
