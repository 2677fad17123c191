"""Agents that lose their connection, gateways that are restarted, nodes that come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from keeper_rig import SESSION, Site, fails, remote

from gateway.errors import AgentGone


def away(site: Site, name: str) -> Any:
    """The connection ends while the agent is being asked."""

    async def answer(params: dict[str, Any]) -> Any:
        site.disconnect(name)
        raise AgentGone("the connection has ended")

    return answer


async def opened_on(site: Site, name: str) -> Any:
    site.join(name)
    return await site.runs_on(name)


async def test_an_agent_that_is_away_for_a_moment_costs_nothing(site: Site) -> None:
    agent = await opened_on(site, "a")
    site.disconnect("a")
    site.channels.ended += 1  # a checkpoint is due: it waits, and so does not keep others from work
    site.keeper.changed()
    for _ in range(100):
        await asyncio.sleep(0)
    site.join("a")
    assert (await site.checkpointed()).number == 1
    assert len(agent.asked("session.open")) == 1
    assert site.channels.attached == {"kernel-1": 1}


async def test_a_kernel_started_while_the_agent_is_away_starts_when_it_is_back(site: Site) -> None:
    agent = await opened_on(site, "a")
    site.disconnect("a")
    site.channels.ids.append("kernel-2")
    starting = asyncio.create_task(site.keeper.kernels.start({"kernel_id": "kernel-2"}))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not starting.done()
    site.join("a")
    await asyncio.wait_for(starting, 10)
    assert agent.kernels == {"kernel-1", "kernel-2"}
    assert site.channels.attached == {"kernel-1": 1, "kernel-2": 1}


async def test_a_kernel_started_while_the_session_moves_starts_where_it_goes(site: Site) -> None:
    source = await opened_on(site, "a")
    site.join("b")

    async def moved_meanwhile(params: dict[str, Any]) -> Any:
        site.drain("a")
        await site.until(lambda: site.keeper.status.node != "a" or source.epoch is None)
        raise remote("not_hosted")

    source.next["kernel.start"] = [moved_meanwhile]
    site.channels.ids.append("kernel-2")
    await asyncio.wait_for(site.keeper.kernels.start({"kernel_id": "kernel-2"}), 10)
    target = await site.runs_on("b")
    assert "kernel-2" in target.kernels
    assert site.channels.attached["kernel-2"] == 2


async def test_an_agent_that_came_back_without_the_session_has_lost_it(site: Site) -> None:
    agent = await opened_on(site, "a")
    site.disconnect("a")
    agent.epoch = None
    site.join("a")
    await site.until(lambda: agent.epoch == 2)
    await site.runs_on("a")
    assert "a is lost" in site.said


async def test_a_connection_that_ends_once_more_decides_nothing(site: Site) -> None:
    agent = await opened_on(site, "a")
    site.disconnect("a")
    agent.next["session.status"] = [away(site, "a")]
    site.join("a", sessions={})
    await site.until(lambda: bool(agent.asked("session.status")))
    site.join("a")
    await site.checkpointed()
    assert len(agent.asked("session.open")) == 1


async def test_a_node_that_comes_back_from_the_dead_is_told_to_end_its_part(site: Site) -> None:
    agent = await opened_on(site, "a")
    site.join("b")
    site.lose("a")
    await site.runs_on("b")
    site.join("a")  # with the session, which it was too busy to end
    await site.until(lambda: agent.epoch is None)
    assert agent.asked("session.close")[-1]["epoch"] == 1
    assert site.holders() == [("b", 2)]
    assert site.channels.attached == {"kernel-1": 2}


async def test_a_node_whose_connection_ended_while_it_opened_is_told_to_end_that(
    site: Site,
) -> None:
    site.join("a")

    async def opens_unheard(params: dict[str, Any]) -> Any:
        site.agents["a"]._session_open(**params)
        return await away(site, "a")(params)

    site.agents["a"].next["session.open"] = [opens_unheard]
    await site.until(lambda: "a could not take the session" in site.said)
    site.join("b")
    await site.runs_on("b")
    site.join("a")
    await site.until(lambda: site.holders() == [("b", 2)])


async def test_after_a_restart_of_the_gateway_the_session_goes_on_where_it_is(site: Site) -> None:
    agent = await opened_on(site, "a")
    await site.checkpointed()
    await site.restart()
    assert site.channels.attached == {}
    site.join("a")
    await site.runs_on("a")
    assert len(agent.asked("session.open")) == 1
    [taken_up] = agent.asked("session.take_up")
    assert taken_up["epoch"] == 1
    assert site.channels.attached == {"kernel-1": 1}
    assert "is still on a" in site.said
    assert site.keeper.status.checkpoint is not None
    assert site.grants.find(f"token {taken_up['blobs']}") is not None
    assert (await site.checkpointed()).number == 2


async def test_a_session_whose_node_was_lost_with_the_gateway_is_recovered(site: Site) -> None:
    await opened_on(site, "a")
    await site.checkpointed()
    await site.restart()
    site.join("b")
    await site.until(lambda: site.keeper.status.state == "recovering")
    assert site.agents["b"].asked("session.open") == []  # `a` has a lease still
    site.lose("a")
    target = await site.runs_on("b")
    [opened] = target.asked("session.open")
    assert (opened["epoch"], opened["manifest"]) == (2, 1)
    assert "a was lost; recovered on b from checkpoint 1" in site.said


async def test_a_node_that_has_it_no_more_after_a_restart_opens_it_again(site: Site) -> None:
    agent = await opened_on(site, "a")
    await site.checkpointed()
    await site.restart()
    agent.epoch = None
    site.join("a")
    await site.runs_on("a")
    assert [c["epoch"] for c in agent.asked("session.open")] == [1, 2]


@pytest.mark.parametrize("error", [AgentGone("gone"), remote("store_unavailable")])
async def test_an_answer_that_did_not_come_is_no_answer(site: Site, error: Exception) -> None:
    agent = await opened_on(site, "a")
    await site.restart()
    agent.next["session.take_up"] = [fails(error)]
    site.join("a")
    site.keeper.changed()
    await site.runs_on("a")
    assert len(agent.asked("session.open")) == 1


async def test_kernels_made_and_deleted_while_the_gateway_was_down_are_dealt_with(
    site: Site,
) -> None:
    agent = await opened_on(site, "a")
    site.channels.ids[:] = ["kernel-2"]  # both were recorded, and the node was not told
    await site.restart()
    site.join("a")
    await site.until(lambda: agent.kernels == {"kernel-2"})
    await site.until(lambda: site.channels.attached == {"kernel-2": 1})


async def test_a_write_that_the_node_may_not_have_is_done_after_a_restart(site: Site) -> None:
    agent = await opened_on(site, "a")
    one = site.journal.record("mkdir", "one")
    agent.applied.append(one.number)
    site.journal.record("mkdir", "two")
    site.journal.record("mkdir", "three")
    await site.restart()
    agent.next["files.apply"] = [fails(remote("exists", "two: exists", retryable=False))]
    site.join("a")
    await site.runs_on("a")
    assert [c["write"]["number"] for c in agent.asked("files.apply")] == [2, 3]
    assert (agent.asked("files.apply")[0]["session"], site.keeper.status.epoch) == (SESSION, 1)


async def test_an_epoch_is_never_used_twice_even_if_the_gateway_dies_while_opening(
    site: Site,
) -> None:
    hangs = asyncio.Event()

    async def hang(params: dict[str, Any]) -> Any:
        site.agents["a"]._session_open(**params)
        hangs.set()
        await asyncio.get_running_loop().create_future()

    site.join("a")
    agent = site.agents["a"]
    agent.next["session.open"] = [hang]
    await hangs.wait()
    await site.restart()
    site.join("a")
    await site.runs_on("a")
    assert [c["epoch"] for c in agent.asked("session.open")] == [1, 2]
    assert site.holders() == [("a", 2)]


@pytest.mark.parametrize("sessions", [{}, {SESSION: 1}], ids=["empty", "with its old incarnation"])
async def test_a_node_lost_and_back_before_anybody_looked_is_another_one(
    site: Site, sessions: dict[str, int]
) -> None:
    agent = await opened_on(site, "a")
    saved = await site.checkpointed()
    site.lose("a")
    if not sessions:
        agent.epoch = None  # it was made anew
    site.join("a", sessions=sessions)
    await site.until(lambda: site.keeper.status.epoch == 2)
    await site.runs_on("a")
    assert agent.epoch == 2
    assert agent.asked("session.open")[-1]["manifest"] == saved.number
    assert agent.asked("session.close") == ([{"session": SESSION, "epoch": 1}] if sessions else [])
    assert site.keeper.node is site.nodes.get("a")
    assert "a is lost" in site.said


async def test_a_checkpoint_during_which_a_kernel_was_killed_is_none(site: Site) -> None:
    agent = await opened_on(site, "a")
    good = await site.checkpointed()

    async def killed_meanwhile(params: dict[str, Any]) -> Any:
        assert site.keeper.kernels.bring_back("kernel-1")
        return agent._session_checkpoint(params["epoch"])

    agent.next["session.checkpoint"] = [killed_meanwhile]
    site.channels.ended += 1
    saving = asyncio.create_task(site.keeper.checkpointed())
    await site.until(lambda: agent.epoch == 2)
    await site.runs_on("a")
    assert agent.asked("session.open")[-1]["manifest"] == good.number
    assert site.repository.numbers() == [good.number]
    await saving


async def test_a_kernel_that_went_while_the_gateway_was_down_comes_back_from_its_checkpoint(
    site: Site,
) -> None:
    agent = await opened_on(site, "a")
    good = await site.checkpointed()
    agent.gone.add("kernel-1")
    await site.restart()
    site.join("a")
    await site.until(lambda: agent.epoch == 2)
    assert agent.asked("session.open")[-1]["manifest"] == good.number
    assert agent.asked("kernel.start") == []


async def test_a_kernel_that_went_before_it_was_heard_comes_back_from_its_checkpoint(
    site: Site,
) -> None:
    agent = await opened_on(site, "a")
    await site.checkpointed()

    async def goes_at_once(params: dict[str, Any]) -> Any:
        opened = agent._session_open(**params)
        agent.gone.add("kernel-1")
        return opened

    agent.next["session.open"] = [goes_at_once]
    site.lose("a")
    site.join("a", sessions={})
    await site.until(lambda: agent.epoch == 3)
    await site.runs_on("a")


async def test_a_kernel_that_died_of_damage_comes_back_from_the_checkpoint_before(
    site: Site,
) -> None:
    agent = await opened_on(site, "a")
    before = await site.checkpointed()
    await site.checkpointed()
    agent.damage = "Pack 77 is damaged."
    assert site.keeper.kernels.bring_back("kernel-1")
    await site.until(lambda: agent.epoch == 2)
    assert agent.asked("session.open")[-1]["manifest"] == before.number
    assert "checkpoint 2 was skipped, it cannot be restored: Pack 77 is damaged." in site.said
    # Of the only one there is, all that can be had is better than nothing.
    await site.runs_on("a")
    site.channels.ended += 1
    assert site.keeper.kernels.bring_back("kernel-1")
    await site.until(lambda: agent.epoch == 3)
    assert agent.asked("session.open")[-1]["manifest"] == before.number


async def test_a_kernel_whose_memory_did_not_come_is_brought_back_as_often_as_that_is(
    site: Site,
) -> None:
    agent = await opened_on(site, "a")
    await site.checkpointed()
    for epoch in (2, 3, 4):
        assert site.keeper.kernels.bring_back("kernel-1", passes=True)
        await site.until(lambda epoch=epoch: agent.epoch == epoch)
        await site.runs_on("a")
    assert not site.keeper.kernels.bring_back("kernel-1")  # it would die of the same
