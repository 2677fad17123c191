"""Old checkpoints are cleared away while the session runs, and nothing of it gets in its way."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from keeper_rig import SESSION

from checkpoint.blobs import Memory
from checkpoint.errors import StoreUnavailable
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body
from checkpoint.repository import Repository
from checkpoint.retention import Retention
from sessionkeeper.keeper import upkeep
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.status import Status
from sessionkeeper.keeper.upkeep import EVERY, FIRST, LATEST, QUIET, Situation, Upkeep, due

NOTHING = Retention(0, 0, 0)


@pytest.mark.parametrize(
    ("situation", "seconds"),
    [
        # The first run: a while after the start, whatever was committed meanwhile.
        (Situation(now=0, started=0, ended=None, commits=0, calm=0), FIRST),
        (Situation(now=FIRST + 5, started=0, ended=None, commits=0, calm=0), 0),
        # Later ones: when there is something to do, and not too often.
        (Situation(now=5000, started=0, ended=4000, commits=1, calm=4000), None),
        (Situation(now=4100, started=0, ended=4000, commits=2, calm=4000), EVERY - 100),
        (Situation(now=4000 + EVERY, started=0, ended=4000, commits=2, calm=4000), 0),
        # Never in the way of a checkpoint or a move; then in a pause, but not never.
        (Situation(now=9000, started=0, ended=4000, commits=99, calm=None), None),
        (Situation(now=4999, started=0, ended=4000, commits=99, calm=4999), QUIET),
        (Situation(now=4000 + EVERY + LATEST, started=0, ended=4000, commits=9, calm=6e3), 0),
    ],
)
def test_when_it_is_due(situation: Situation, seconds: float | None) -> None:
    assert due(situation) == seconds


class Watched(Memory):
    """A store in which a deletion can be waited for, and be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.deleting = threading.Event()
        self.may_delete = threading.Event()
        self.may_delete.set()
        self.deleted = 0
        self.broken = False

    def delete(self, key: str) -> None:
        self.deleting.set()
        assert self.may_delete.wait(30)
        if self.broken:
            raise StoreUnavailable("The store does not answer.")
        self.deleted += 1
        super().delete(key)


class Kept:
    """A session that is running, its upkeep, and a writer that goes on beside it."""

    def __init__(self) -> None:
        self.store = Watched()
        self.repository = Repository.open(self.store, SESSION, MasterKey(bytes(32)))
        self.chain = Chain(self.repository)
        self.status = Status(SESSION, state="running")
        self.upkeep = Upkeep(self.chain, self.status, NOTHING)

    async def commit(self, times: int = 1) -> None:
        for _ in range(times):
            with self.repository.writer(self.chain.manifest) as writer:
                name = writer.add(secrets.token_bytes(1000))
                await self.chain.commit(Body(writer.finish(), name), 1)

    def packs(self) -> int:
        return len(list(self.repository.blobs.list("packs/")))

    @property
    def warnings(self) -> list[str]:
        return [e["text"] for e in self.status.json()["events"] if e["level"] == "warning"]


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    made = Kept()
    await made.commit(5)
    task = asyncio.create_task(made.upkeep.run())
    async with asyncio.timeout(30):
        yield made
    task.cancel()
    made.store.may_delete.set()
    await asyncio.wait([task])


async def test_checkpoints_go_at_once_and_packs_after_two_more(kept: Kept) -> None:
    done = await kept.upkeep.now()
    assert (done.checkpoints, done.packs, done.listed) == (4, 0, 4)
    assert kept.repository.numbers() == [5]
    await kept.commit(2)
    done = await kept.upkeep.now()
    assert (done.checkpoints, done.packs) == (1, 4)  # what came after the list is proof: it stays
    assert kept.repository.numbers() == [6, 7]
    last = kept.status.json()["upkeep"]["last"]
    assert (last["packs"], last["listed"]) == (4, 1)
    newest = kept.repository.newest()
    assert newest is not None
    kept.repository.verify(newest)


async def test_it_stands_still_while_a_checkpoint_is_under_way(kept: Kept) -> None:
    kept.store.may_delete.clear()
    doing = asyncio.create_task(kept.upkeep.now())
    await asyncio.to_thread(kept.store.deleting.wait, 10)
    kept.status.update(checkpointing=True)
    kept.store.may_delete.set()  # what the store was asked before is done, and no more
    await kept.commit(3)
    assert kept.store.deleted <= 2
    assert not doing.done()
    kept.status.update(checkpointing=False)
    assert (await doing).checkpoints == 4


async def test_it_does_not_begin_while_the_session_moves(kept: Kept) -> None:
    kept.status.update(state="moving")
    doing = asyncio.create_task(kept.upkeep.now())
    await kept.commit()
    assert kept.repository.numbers() == [1, 2, 3, 4, 5, 6]
    assert not doing.done()
    kept.status.update(state="running")
    assert (await doing).checkpoints == 5


async def test_failure_is_said_once_and_taken_back_when_it_works_again(kept: Kept) -> None:
    kept.store.broken = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await kept.upkeep.now()
    assert kept.warnings == [
        "old checkpoints could not be cleared away: The store does not answer."
    ]
    assert kept.status.json()["warnings"] == kept.warnings
    kept.store.broken = False
    await kept.upkeep.now()
    assert kept.status.json()["warnings"] == []


async def test_checkpoint_that_a_session_went_back_to_stays(kept: Kept) -> None:
    await kept.chain.step_back()
    doing = asyncio.create_task(kept.upkeep.now())
    await asyncio.to_thread(lambda: None)
    assert kept.repository.numbers() == [1, 2, 3, 4, 5]
    await kept.commit()
    kept.status.update(checkpointing=True)
    kept.status.update(checkpointing=False)
    assert (await doing).checkpoints == 5


async def test_it_is_done_by_itself(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "EVERY", "QUIET"):
        monkeypatch.setattr(upkeep, name, 0.0)
    runs: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    seen: list[float] = []

    def ran(status: dict[str, Any]) -> None:
        last = status["upkeep"].get("last")
        if last is not None and last["at"] not in seen:
            seen.append(last["at"])
            runs.put_nowait(last)

    kept.status.listen(ran)
    kept.status.update(state="moving")
    kept.status.update(state="running")
    assert (await runs.get())["checkpoints"] == 4
    for number in (6, 7):
        assert kept.repository.numbers() == [*range(5, number)]  # after one more nothing may go
        kept.status.update(checkpointing=True)
        await kept.commit()
        kept.status.update(checkpointing=False)
    assert (await runs.get())["packs"] == 4
    assert kept.repository.numbers() == [6, 7]


async def test_its_thread_has_the_lowest_priority(kept: Kept) -> None:
    import os

    thread = kept.upkeep._thread
    nice = thread.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    assert nice.result() == 19
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19
