"""A session that its user sends back to an earlier checkpoint, also when something ends or fails in
the middle of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from keeper_rig import Site, fails, remote

from checkpoint import tags
from checkpoint.blobs import Buffer, Memory
from checkpoint.deletion import delete
from checkpoint.errors import Damaged, StoreUnavailable, UnknownCheckpoint, UnknownTag
from sessionkeeper.keeper.chain import WENT_BACK
from sessionkeeper.keeper.checkpoints import ARRIVAL
from sessionkeeper.keeper.going_back import NotSaved


async def ready(site: Site) -> None:
    """Three checkpoints on node a, the last two with a younger kernel and without an older one."""
    site.channels.ids.append("older")
    site.join("a")
    agent = await site.runs_on("a")
    await site.checkpointed()
    site.channels.ids[:] = ["kernel-1", "younger"]
    agent.kernels = {"kernel-1", "younger"}
    await site.checkpointed()
    await site.checkpointed()


async def test_kernels_are_those_of_then_and_what_is_now_is_kept(site: Site) -> None:
    await ready(site)
    done = await site.keeper.going_back.ask("1")
    assert (done.to, done.saved, done.number, done.tag) == (1, 4, 5, "before-going-back-4")
    agent = await site.runs_on("a")
    opened = agent.asked("session.open")[-1]
    assert opened["manifest"] == 5
    assert {k["kernel_id"] for k in opened["kernels"]} == {"kernel-1", "older", "younger"}
    assert all(k["generation"] == 1 for k in opened["kernels"])
    assert "went back to checkpoint 1" in site.channels.told["kernel-1"]
    assert "what was before is checkpoint 4" in site.said
    manifest = site.repository.load(5)
    assert manifest.parent == 1
    assert set(manifest.processes) == {"kernel-1", "older"}
    assert {p.detail["generation"] for p in manifest.processes.values()} == {1}
    assert tags.numbers(site.repository.blobs, site.repository.keys, "one") == {
        4: ["before-going-back-4"]
    }
    assert (await site.checkpointed()).parent == 5


async def test_it_can_be_done_again_and_to_a_tag(site: Site) -> None:
    await ready(site)
    for _ in range(2):
        first = await site.keeper.going_back.ask("1")
        assert first.tag is not None
        await site.keeper.going_back.ask(first.tag)
        await site.runs_on("a")
    assert site.channels.generations["kernel-1"] == 4


async def test_going_back_takes_no_tag_of_the_users(site: Site) -> None:
    await ready(site)
    tags.tag(site.repository, "going-back", 2)
    await site.keeper.going_back.ask("1")
    assert tags.resolve(site.repository, "going-back").number == 2


async def test_gateway_killed_before_it_went_back_leaves_no_tag(site: Site) -> None:
    await ready(site)
    agent, asked = site.agents["a"], asyncio.Event()

    async def never(params: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    agent.next["session.checkpoint"] = [never]
    asking = asyncio.create_task(site.keeper.going_back.ask("1"))
    await asked.wait()
    assert len(tags.names(site.repository.blobs)) == 1
    await site.restart()
    assert tags.names(site.repository.blobs) == []
    asking.cancel()


async def test_what_is_now_is_saved_when_all_memory_has_arrived(site: Site) -> None:
    await ready(site)
    await site.keeper.going_back.ask("1")
    last = site.agents["a"].asked("session.checkpoint")[-1]
    assert (last["final"], last["within"], last["arrive"]) == (True, 0.0, ARRIVAL)


async def test_files_saved_before_are_not_saved_again_and_those_after_are(site: Site) -> None:
    await ready(site)
    site.journal.record("mkdir", "before")
    agent = site.agents["a"]
    agent.applied.append(1)

    async def saved_meanwhile(params: object) -> object:
        found = agent._session_checkpoint(epoch=1)
        site.journal.record("mkdir", "after")
        return found

    agent.next["session.checkpoint"] = [saved_meanwhile]
    await site.keeper.going_back.ask("1")
    await site.runs_on("a")
    assert [w["path"] for w in agent.asked("session.open")[-1]["writes"]] == ["after"]


@pytest.mark.parametrize(
    ("at", "error"), [("9", UnknownCheckpoint), ("nothing", UnknownTag), ("2", Damaged)]
)
async def test_what_cannot_be_gone_back_to_changes_nothing(
    site: Site, at: str, error: type[Exception]
) -> None:
    await ready(site)
    key = "sessions/one/manifests/00000002"
    whole = site.store.get(key)
    site.store.put(key, whole[:-1] + bytes([whole[-1] ^ 1]))
    before = site.repository.numbers()
    with pytest.raises(error):
        await site.keeper.going_back.ask(at)
    assert site.repository.numbers() == before
    assert len(site.agents["a"].asked("session.open")) == 1
    assert list(site.repository.blobs.list("tags/")) == []


async def test_without_a_checkpoint_of_now_it_stays_and_the_kernels_go_on(site: Site) -> None:
    await ready(site)
    agent = site.agents["a"]
    agent.next["session.checkpoint"] = [fails(remote("dump_failed", "the disk is full"))]
    with pytest.raises(NotSaved, match=r"stays as it is: .*the disk is full"):
        await site.keeper.going_back.ask("1")
    await site.runs_on("a")
    assert len(agent.asked("session.take_up")) == 1  # which thaws them
    assert site.channels.attached["kernel-1"] == 1
    agent.next["session.checkpoint"] = [fails(remote("dump_failed", "the disk is full"))]
    done = await site.keeper.going_back.ask("1", discard=True)
    assert done.saved is None
    assert "was not to be saved" in site.said


async def test_session_without_compute_goes_back_at_once(site: Site) -> None:
    await ready(site)
    site.lose("a")
    done = await site.keeper.going_back.ask("2")
    assert (done.saved, done.number) == (3, 4)
    site.join("b")
    opened = (await site.runs_on("b")).asked("session.open")
    assert [one["manifest"] for one in opened] == [4]


class Dying(Memory):
    """Once told to, a store whose ``left``-th write is the last thing that its process does."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.done_yet = False
        self.dead = threading.Event()

    def put(self, key: str, data: Buffer) -> None:
        self._count(lambda: Memory.put(self, key, data))

    def create(self, key: str, data: Buffer) -> None:
        self._count(lambda: Memory.create(self, key, data))

    def delete(self, key: str) -> None:
        self._count(lambda: Memory.delete(self, key))

    def _count(self, write: object) -> None:
        assert callable(write)
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                if self.left == 0 and self.done_yet:
                    write()
                self.dead.set()
                raise StoreUnavailable("The process has ended.")
        write()


@pytest.mark.parametrize("done_yet", [False, True])
async def test_gateway_killed_at_any_write_has_either_gone_back_or_not(
    tmp_path: Path, done_yet: bool
) -> None:
    outcomes, write = [], 0
    while True:
        write += 1
        store = Dying()
        site = Site(tmp_path / f"{done_yet}-{write}", "kernel-1", store=store)
        await site.begin()
        await ready(site)
        store.left, store.done_yet = write, done_yet
        asking = asyncio.create_task(site.keeper.going_back.ask("1"))
        dying = asyncio.create_task(asyncio.to_thread(store.dead.wait, 20))
        await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
        died = store.dead.is_set()
        asking.cancel()
        site.disconnect("a")
        await site.end()
        store.left = None
        store.dead.set()
        await asyncio.wait({asking, dying})
        site.start_process()
        await site.begin()
        site.join("a")
        agent = await site.runs_on("a")
        newest = await site.checkpointed()
        chain = [site.repository.load(number) for number in site.repository.numbers()]
        back = [one for one in chain if WENT_BACK in one.meta]
        outcomes.append(bool(back))
        if back:  # then all of it is done, whatever was not yet
            assert agent.asked("session.open")[-1]["manifest"] == back[-1].number
            assert site.channels.generations["kernel-1"] == 1
            assert "older" in site.channels.ids
            assert newest.parent == back[-1].number
        else:  # then nothing is
            assert len(agent.asked("session.open")) == 1
            assert site.channels.generations.get("kernel-1", 0) == 0
            assert newest.parent in {3, 4}
        assert set(site.channels.attached) == set(site.channels.ids)
        await site.end()
        if not died:
            break
    assert outcomes == sorted(outcomes)
    assert len(outcomes) > 4


async def test_session_that_was_deleted_meanwhile_is_let_go_and_never_begun_anew(
    site: Site,
) -> None:
    await ready(site)
    delete(site.repository, silence=0.01)
    site.channels.ended += 1
    site.keeper.changed()
    await site.until(lambda: site.keeper.status.state == "idle")
    assert "Session 'one' was deleted." in site.said
    site.join("b")
    await site.until(lambda: site.agents["a"].epoch is None)
    for _ in range(100):
        await asyncio.sleep(0)
    assert site.holders() == []
    assert list(site.store.list("sessions/one/")) == []
