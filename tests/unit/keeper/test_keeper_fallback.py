"""Nodes that cannot take each other's process images: variables beside them, when they count."""

from __future__ import annotations

from typing import Any

import pytest
from keeper_rig import Site, fails, remote

POORER = {"cpu": "poorer", "cpu_features": [1, 7, 832]}
RICHER = {"cpu": "richer", "cpu_features": [3, 7, 832]}
PLAIN = {"runtime": "process", "engines": ["namespace"]}


def join(site: Site, name: str, cpu: dict[str, object]) -> None:
    agent = site.join(name, **cpu, images=cpu)
    site.agents[name]._meta = lambda: {"engine": "criu", **cpu}  # type: ignore[method-assign]
    assert agent.ready


async def test_where_all_nodes_match_no_variables_are_saved(site: Site) -> None:
    join(site, "a", RICHER)
    agent = await site.runs_on("a")
    join(site, "b", RICHER)
    await site.checkpointed()
    assert [call["wanted"] for call in agent.asked("session.checkpoint")] == ["no"]


async def test_a_poorer_cpu_may_hand_on_what_it_has_to_a_richer_one(site: Site) -> None:
    join(site, "a", POORER)
    agent = await site.runs_on("a")
    join(site, "b", RICHER)
    await site.checkpointed()
    assert [call["wanted"] for call in agent.asked("session.checkpoint")] == ["no"]


@pytest.mark.parametrize("other", [POORER, PLAIN])
async def test_a_node_that_joins_and_could_not_take_over_makes_a_checkpoint_due(
    site: Site, other: dict[str, object]
) -> None:
    join(site, "a", RICHER)
    agent = await site.runs_on("a")
    first = await site.checkpointed()
    site.join("b", **other)
    await site.until(lambda: site.keeper.chain.manifest != first)
    assert [call["wanted"] for call in agent.asked("session.checkpoint")] == ["no", "if idle"]
    await site.checkpointed()
    assert len(agent.asked("session.checkpoint")) == 3  # it was due once


async def test_the_variables_are_taken_where_the_images_cannot_be_and_that_is_said(
    site: Site,
) -> None:
    join(site, "a", RICHER)
    await site.runs_on("a")
    join(site, "b", POORER)
    saved = await site.checkpointed()
    site.lose("a")
    agent = await site.runs_on("b")
    [opened] = agent.asked("session.open")
    assert opened["manifest"] == saved.number
    assert opened["no_images"] == "b has a CPU (poorer) that lacks features of richer"
    assert agent.asked("session.stage") == []  # the images would be of no use
    assert f"of checkpoint {saved.number} the files were taken, and the variables" in site.said


async def test_a_node_that_takes_the_images_is_preferred_whatever_its_tier(site: Site) -> None:
    join(site, "a", RICHER)
    await site.runs_on("a")
    join(site, "b", {**POORER, "tier": "spot"})
    join(site, "c", {**RICHER, "tier": "on-demand"})
    await site.checkpointed()
    site.lose("a")
    agent = await site.runs_on("c")
    assert agent.asked("session.open")[0]["no_images"] is None


async def test_without_variables_the_session_waits_for_a_node_that_fits(site: Site) -> None:
    join(site, "a", RICHER)
    await site.runs_on("a")
    await site.checkpointed()
    site.lose("a")
    site.join("b", **POORER)
    await site.until(lambda: "that lacks features of richer" in site.said)
    assert site.agents["b"].asked("session.open") == []


async def test_of_busy_kernels_the_last_variables_are_kept_with_all_that_came_after(
    site: Site,
) -> None:
    join(site, "a", RICHER)
    agent = await site.runs_on("a")
    join(site, "b", POORER)
    saved = await site.checkpointed()
    kept = site.channels.released["kernel-1"]
    agent.busy = True
    newest = await site.checkpointed()
    assert newest.number > saved.number
    assert site.channels.released["kernel-1"] == kept
    await site.restart()  # and the next gateway finds it in the store
    join(site, "a", RICHER)
    await site.runs_on("a")
    join(site, "b", POORER)
    site.lose("a")
    agent = await site.runs_on("b")
    assert [call["manifest"] for call in agent.asked("session.open")] == [saved.number]
    assert f"checkpoint {newest.number} is newer and was made in the middle of a cell" in site.said
    assert (await site.checkpointed()).number == newest.number + 1


async def test_for_a_node_that_takes_the_images_a_busy_checkpoint_is_the_newest(site: Site) -> None:
    join(site, "a", RICHER)
    agent = await site.runs_on("a")
    join(site, "b", POORER)
    await site.checkpointed()
    agent.busy = True
    newest = await site.checkpointed()
    join(site, "c", RICHER)
    site.lose("a")
    agent = await site.runs_on("c")
    assert agent.asked("session.open")[0]["manifest"] == newest.number


async def test_what_failed_on_the_poorer_node_is_not_forgotten_for_the_others(site: Site) -> None:
    join(site, "a", RICHER)
    agent = await site.runs_on("a")
    join(site, "b", POORER)
    await site.checkpointed()
    agent.busy = True
    newest = await site.checkpointed()

    async def full(params: dict[str, Any]) -> Any:
        join(site, "c", RICHER)
        raise remote("disk_full")

    site.agents["b"].next["session.open"] = [full]
    site.lose("a")
    agent = await site.runs_on("c")
    assert "b could not take the session" in site.said
    assert agent.asked("session.open")[0]["manifest"] == newest.number


async def test_a_move_to_a_poorer_node_needs_the_variables(site: Site) -> None:
    join(site, "a", RICHER)
    source = await site.runs_on("a")
    join(site, "b", POORER)
    await site.checkpointed()
    assert "of checkpoint 2 the files were taken, and the variables" in str(await site.drain("a"))
    target = await site.runs_on("b")
    last = source.asked("session.checkpoint")[-1]
    assert (last["final"], last["wanted"]) == (True, "needed")
    assert last["within"] > 20
    assert target.asked("session.open")[0]["no_images"]


async def test_a_cell_that_does_not_end_in_time_costs_what_came_after_the_last_variables(
    site: Site,
) -> None:
    join(site, "a", RICHER)
    source = await site.runs_on("a")
    join(site, "b", POORER)
    saved = await site.checkpointed()
    source.busy = True
    await site.checkpointed()
    site.drain("a", 0.5)
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["manifest"] == saved.number
    assert "a is leaving without a last checkpoint" in site.said


async def test_when_no_images_can_be_restored_the_variables_are_tried_before_nothing(
    site: Site,
) -> None:
    join(site, "a", RICHER)
    await site.runs_on("a")
    site.join("p", **PLAIN)
    await site.checkpointed()
    site.nodes.get("p").draining = True
    join(site, "b", RICHER)
    site.agents["b"].next["session.open"] = [fails(remote("restore_failed"))]
    site.lose("a")
    agent = await site.runs_on("b")
    first, second = agent.asked("session.open")
    assert (first["no_images"], second["no_images"]) == (
        None,
        "no node could restore its process images",
    )
    assert second["restore_kernels"]
    assert "the variables beside them are tried" in site.said
