"""A session hibernates: saved, without compute, until somebody wants it."""

from __future__ import annotations

import asyncio

import pytest
from keeper_rig import Site, fails, remote

from sessionkeeper.keeper.sleep import NotHibernated


async def test_its_compute_is_released_after_a_last_checkpoint(site: Site) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    await site.checkpointed()
    await site.keeper.sleep.fall()
    assert agent.asked("session.checkpoint")[-1]["final"]
    assert site.holders() == []
    assert site.keeper.status.state == "hibernated"
    assert await site.keeper.settled() is None


async def test_it_comes_back_on_any_node_when_it_is_wanted(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.keeper.sleep.fall()
    site.lose("a")
    site.join("b")
    assert site.keeper.status.state == "hibernated"
    site.keeper.sleep.wake()
    await site.keeper.awake()
    assert [name for name, _ in site.holders()] == ["b"]


async def test_it_goes_on_where_it_cannot_be_saved_and_who_asked_is_told(site: Site) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    agent.next["session.checkpoint"] = [fails(remote("dump_failed", "no room"))] * 2
    with pytest.raises(NotHibernated, match="no room"):
        await site.keeper.sleep.fall()
    await site.runs_on("a")
    assert [name for name, _ in site.holders()] == ["a"]


async def test_a_request_that_came_while_it_was_saved_brings_it_back(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    site.channels.asked = True
    falling = asyncio.ensure_future(site.keeper.sleep.fall())
    with pytest.raises(NotHibernated):
        await falling
    await site.runs_on("a")


async def test_its_node_may_be_lost_while_it_is_saved(site: Site) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    await site.checkpointed()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def hangs(params: dict[str, object]) -> None:
        await never

    agent.next["session.checkpoint"] = [hangs]
    falling = asyncio.ensure_future(site.keeper.sleep.fall())
    await site.until(lambda: not agent.next["session.checkpoint"])
    site.lose("a")
    await falling
    assert site.keeper.status.state == "hibernated"


async def test_sessions_on_their_way_to_a_node_count_there(site: Site) -> None:
    node = site.join("a")
    await site.runs_on("a")
    assert (node.facts().load, node.facts(but="one").load) == (1, 0)
    assert node.coming == set()
