"""Two gateways on one store: one of them has the session, and the other one is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from keeper_rig import ScriptedAgent, Site

from checkpoint.blobs import BlobStore, Memory
from checkpoint.errors import StoreUnavailable
from checkpoint.manifest import Manifest
from sessionkeeper.keeper.chain import GATEWAY


class Fails(Memory):
    """The write after the next ``left`` ones does not happen, or its answer is lost."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects = objects
        self.left = -1
        self.done = False

    def create(self, key: str, data: bytes | bytearray | memoryview) -> None:
        self.left -= 1
        if self.left != -1 or self.done:
            super().create(key, data)
        if self.left == -1:
            raise StoreUnavailable("The store does not answer.")


@asynccontextmanager
async def _gateway(
    base: Path, store: BlobStore, *kernels: str, run: str | None = None
) -> AsyncIterator[Site]:
    base.mkdir(exist_ok=True)
    site = Site(base, *kernels, store=store, run=run)
    await site.begin()
    try:
        yield site
    finally:
        await site.end()


async def _running(site: Site) -> ScriptedAgent:
    site.join("node")
    return await site.runs_on("node")


async def _gone(site: Site, agent: ScriptedAgent) -> None:
    await site.until(lambda: site.keeper.status.state == "failed" and agent.epoch is None)
    assert site.channels.attached == {}
    assert "another gateway has this session since 2" in site.said


def _epochs(site: Site) -> list[int]:
    return [m.epoch for _, m in site.repository.load_all(site.repository.numbers()) if _is(m)]


def _is(found: object) -> bool:
    assert isinstance(found, Manifest)
    return True


def test_gateway_that_takes_a_session_over_has_it_before_it_runs(tmp_path: Path) -> None:
    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k") as first:
            old = await _running(first)
            saved = await first.checkpointed()
            async with _gateway(tmp_path / "b", store) as second:
                new = await _running(second)
                claim = second.repository.load(saved.number + 1)
                assert (claim.processes, claim.packs) == (saved.processes, saved.packs)
                assert claim.epoch == new.epoch > saved.epoch
                assert new.asked("session.open")[0]["manifest"] == claim.number
                first.channels.ended += 1
                first.keeper.changed()
                await _gone(first, old)
                later = await second.checkpointed()
                assert (later.number, later.epoch) == (claim.number + 1, claim.epoch)
                assert _epochs(second) == sorted(_epochs(second))
                assert old.asked("session.open") == old.asked("session.open")[:1]

    asyncio.run(scene())


def test_gateway_that_has_nothing_to_save_finds_that_another_one_has_its_session(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k") as first:
            old = await _running(first)
            await first.checkpointed()
            watch = asyncio.create_task(first.keeper.fence.watch(0.01))
            async with _gateway(tmp_path / "b", store) as second:
                await _running(second)
                await _gone(first, old)
                assert second.keeper.status.state == "running"
            watch.cancel()

    asyncio.run(scene())


def test_gateway_that_lost_its_session_takes_it_back_when_its_user_starts_it_anew(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k", run="monday") as first:
            old = await _running(first)
            await first.checkpointed()
            async with _gateway(tmp_path / "b", store) as second:
                new = await _running(second)
                first.channels.ended += 1
                first.keeper.changed()
                await _gone(first, old)
                await first.restart()  # by its supervisor: nobody asked for the session
                first.join("node")
                await _gone(first, old)
                first.run = "tuesday"
                await first.restart()
                await _running(first)
                second.channels.ended += 1
                second.keeper.changed()
                await _gone(second, new)
                assert (await first.checkpointed()).meta[GATEWAY][
                    "id"
                ] == first.keeper.chain.gateway

    asyncio.run(scene())


def test_gateway_that_was_killed_while_another_one_took_over_ends_what_it_has(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k", run="monday") as first:
            old = await _running(first)
            await first.checkpointed()
            await first.end()
            async with _gateway(tmp_path / "b", store) as second:
                await _running(second)
                await second.checkpointed()
                first.start_process()
                await first.begin()
                first.join("node")
                await _gone(first, old)
                assert second.keeper.status.state == "running"

    asyncio.run(scene())


def test_gateway_that_is_started_again_has_its_session_without_another_word(tmp_path: Path) -> None:
    async def scene() -> None:
        async with _gateway(tmp_path / "a", Memory(), "k", run="monday") as site:
            agent = await _running(site)
            saved = await site.checkpointed()
            for run in ("monday", "tuesday"):
                site.run = run
                await site.restart()
                site.join("node")
                await site.runs_on("node")
                assert site.repository.numbers()[-1] == saved.number
            assert len(agent.asked("session.open")) == 1

    asyncio.run(scene())


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("left", range(4))
def test_claim_that_fails_at_any_write_is_made_once(tmp_path: Path, left: int, done: bool) -> None:
    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k") as first:
            await _running(first)
            await first.checkpointed()
        fails = Fails(store.objects)
        async with _gateway(tmp_path / "b", fails) as second:
            fails.left, fails.done = left, done
            await _running(second)
            second.channels.ended += 1
            while not await second.keeper.checkpointed():
                assert second.keeper.status.state == "running"
            numbers = second.repository.numbers()
            ids = [second.repository.load(n).meta[GATEWAY]["id"] for n in numbers]
            assert numbers == list(range(1, len(numbers) + 1))
            assert ids[1:] == [second.keeper.chain.gateway] * (len(ids) - 1)
            assert second.keeper.chain.gateway != ids[0]

    asyncio.run(scene())


@pytest.mark.parametrize("busy", [1, 3])
def test_what_was_committed_before_the_claim_is_what_is_claimed(tmp_path: Path, busy: int) -> None:
    """The one that has the session goes on with the chain until just before the claim."""

    async def scene() -> None:
        store = Memory()
        async with _gateway(tmp_path / "a", store, "k") as first:
            old = await _running(first)
            await first.checkpointed()
            async with _gateway(tmp_path / "b", store) as second:
                saved = [await first.checkpointed() for _ in range(busy)][-1]
                new = await _running(second)
                opened = new.asked("session.open")[0]["manifest"]
                claim = second.repository.load(opened)
                assert (opened, claim.parent) == (saved.number + 1, saved.number)
                first.channels.ended += 1
                first.keeper.changed()
                await _gone(first, old)

    asyncio.run(scene())
