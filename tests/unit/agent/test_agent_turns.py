"""Who works on a node when many sessions want to at once."""

from __future__ import annotations

import asyncio

import pytest

from sessionkeeper.agent.errors import KernelBusy, NoTimeLeft
from sessionkeeper.agent.plan import Unsaved
from sessionkeeper.agent.turns import Last, Turn, Turns


class Work:
    """Takes a turn, and ends when it is told to."""

    def __init__(
        self, turns: Turns, order: list[str], name: str, urgent: bool, last: Last | None = None
    ) -> None:
        self.end = asyncio.Event()
        self.task = asyncio.ensure_future(
            self._work(turns.turn(urgent=urgent, last=last), order, name)
        )

    async def _work(self, turn: Turn, order: list[str], name: str) -> None:
        async with turn:
            order.append(name)
            await self.end.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_work_at_once_and_the_others_in_order() -> None:
    turns, order = Turns(2), []
    work = [Work(turns, order, str(n), urgent=True) for n in range(4)]
    await settled()
    assert order == ["0", "1"]
    work[1].end.set()
    await settled()
    assert order == ["0", "1", "2"]
    for one in work:
        one.end.set()
    await asyncio.gather(*(one.task for one in work))
    assert order == ["0", "1", "2", "3"]


async def test_a_last_checkpoint_does_not_wait_for_those_that_can_be_made_later() -> None:
    turns, order = Turns(1), []
    running = Work(turns, order, "running", urgent=False)
    await settled()
    routine = Work(turns, order, "routine", urgent=False)
    await settled()
    last = Work(turns, order, "last", urgent=True)
    with pytest.raises(KernelBusy):
        await routine.task
    running.end.set()
    last.end.set()
    await asyncio.gather(running.task, last.task)
    assert order == ["running", "last"]


async def test_one_that_is_cancelled_takes_nobody_s_turn_away() -> None:
    turns, order = Turns(1), []
    first = Work(turns, order, "first", urgent=True)
    await settled()
    second = Work(turns, order, "second", urgent=True)
    third = Work(turns, order, "third", urgent=True)
    await settled()
    first.end.set()
    await asyncio.sleep(0)
    second.task.cancel()
    third.end.set()
    await asyncio.gather(first.task, third.task)
    assert order[-1] == "third"


async def test_a_quiet_time_begins_when_all_have_had_their_turn() -> None:
    turns, order = Turns(1), []
    work = Work(turns, order, "work", urgent=True)
    await settled()
    quiet = asyncio.ensure_future(turns.quiet())
    await settled()
    assert not quiet.done()
    work.end.set()
    await quiet
    assert work.task.done()


def last(session: str, work: float, left: float, size: int = 0) -> Last:
    until = asyncio.get_running_loop().time() + left
    return Last(Unsaved(session, size, 0, work), until)


async def test_of_last_checkpoints_that_wait_the_one_with_most_to_lose_is_next() -> None:
    turns, order = Turns(1), []
    running = Work(turns, order, "running", urgent=True)
    await settled()
    waiting = [
        Work(turns, order, name, urgent=True, last=last(name, work, 60.0))
        for name, work in (("idle", 0.0), ("long cell", 900.0), ("short cell", 2.0))
    ]
    await settled()
    for one in (running, *waiting):
        one.end.set()
    await asyncio.gather(*(one.task for one in waiting))
    assert order == ["running", "long cell", "short cell", "idle"]


async def test_a_last_checkpoint_that_would_be_too_late_is_refused() -> None:
    turns, order = Turns(1), []
    huge = Work(turns, order, "huge", urgent=True, last=last("huge", 9.0, 1.0, size=1 << 40))
    small = Work(turns, order, "small", urgent=True, last=last("small", 1.0, 60.0))
    with pytest.raises(NoTimeLeft, match="huge"):
        await huge.task
    small.end.set()
    await small.task
    assert order == ["small"]


async def test_what_ends_sessions_waits_until_none_is_saved_any_more() -> None:
    turns, order = Turns(1), []
    saving = Work(turns, order, "saving", urgent=True, last=last("saving", 1.0, 60.0))
    await settled()
    saved = asyncio.ensure_future(turns.saved())
    await settled()
    assert not saved.done()
    saving.end.set()
    await saved
