"""A session moves to a node that costs less, and stays where it is when that does not go well."""

from __future__ import annotations

import pytest
from keeper_rig import Site, fails, remote

SOON = 0.01
"""Seconds that a session stays on a node."""


@pytest.fixture
def hasty(site: Site) -> Site:
    site.keeper._whereto._line.stays = SOON
    return site


async def test_it_moves_with_a_last_checkpoint_and_says_so(hasty: Site) -> None:
    hasty.join("dear")
    dear = await hasty.runs_on("dear")
    await hasty.checkpointed()
    hasty.join("cheap", tier="spot")
    await hasty.runs_on("cheap")
    assert dear.asked("session.checkpoint")[-1]["final"]
    assert [name for name, _ in hasty.holders()] == ["cheap"]
    assert "moving from dear to cheap, which costs less" in hasty.said
    assert "moved from dear to cheap in" in hasty.said


async def test_without_a_last_checkpoint_it_goes_on_where_it_is_and_tries_again(
    hasty: Site,
) -> None:
    hasty.join("dear")
    dear = await hasty.runs_on("dear")
    await hasty.checkpointed()
    dear.next["session.checkpoint"] = [fails(remote("dump_failed", "no room"))]
    hasty.join("cheap", tier="spot")
    await hasty.until(lambda: bool(dear.asked("session.take_up")))  # its kernels go on
    assert dear.epoch is not None
    await hasty.runs_on("cheap")
    assert [name for name, _ in hasty.holders()] == ["cheap"]


async def test_while_a_kernel_is_asked_something_it_stays(hasty: Site) -> None:
    hasty.join("dear")
    dear = await hasty.runs_on("dear")
    hasty.channels.asked = True
    hasty.join("cheap", tier="spot")
    await hasty.checkpointed()
    await hasty.checkpointed()
    assert dear.epoch is not None
    assert not hasty.agents["cheap"].calls


async def test_as_dear_a_node_is_no_reason_to_move(hasty: Site) -> None:
    hasty.join("one")
    one = await hasty.runs_on("one")
    hasty.join("other", price=0.039)
    await hasty.checkpointed()
    await hasty.checkpointed()
    assert one.epoch is not None
