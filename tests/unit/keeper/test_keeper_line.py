"""The line of a gateway: who waits is woken when it may be its turn."""

from __future__ import annotations

import asyncio

import pytest

from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.whereto import Line, Whereto
from sessionkeeper.leases import Leases
from sessionkeeper.line import Rules
from sessionkeeper.placement import Needs
from sessionkeeper.quotas import parse_quotas
from sessionkeeper.registration import Registration


class Agent:
    """A node's connection on which nothing is ever asked."""

    async def call(self, method: str, params: dict[str, object], wait: float) -> None:
        raise AssertionError(method)

    def send_frame(self, kernel_id: str, frame: bytes) -> None:
        raise AssertionError(kernel_id)

    def send_event(self, event: dict[str, object]) -> None: ...

    def close(self, reason: str, /) -> None: ...


@pytest.fixture
async def nodes() -> Nodes:
    return Nodes(Leases(60.0), lambda node: None)


def join(nodes: Nodes, name: str, tier: str, **hello: object) -> None:
    nodes.joined(Agent(), {"node": name, "tier": tier, "runtime": "container", **hello})


def enter(line: Line, nodes: Nodes, name: str, **agreed: object) -> tuple[Whereto, asyncio.Event]:
    woken = asyncio.Event()
    registration = Registration(name, **agreed)  # type: ignore[arg-type]
    line.enter(registration, woken.set)
    return Whereto(registration, nodes, line), woken


async def test_who_waits_for_on_demand_is_woken_when_it_may_have_it(nodes: Nodes) -> None:
    join(nodes, "paid", "on-demand")
    line = Line(nodes, Rules(on_demand=0.05))
    whereto, woken = enter(line, nodes, "a")
    needs = whereto.needs(Needs())
    assert whereto.turn(needs, frozenset()).node is None
    assert "after 0.05 s" in whereto.why(Needs(), frozenset())["reasons"]["paid"]
    async with asyncio.timeout(10):
        await woken.wait()
    assert whereto.turn(needs, frozenset()).node == "paid"


async def test_an_owner_over_the_quota_waits_until_one_of_theirs_is_gone(nodes: Nodes) -> None:
    join(nodes, "n", "spot")
    line = Line(nodes, Rules(parse_quotas("owner=1")))
    first, _ = enter(line, nodes, "a", owner="ann")
    second, woken = enter(line, nodes, "b", owner="ann")
    other, _ = enter(line, nodes, "c", owner="bob")
    first.heads_for(nodes.get("n"))
    nodes.get("n").take("a")
    first.heads_for(None)
    said = second.turn(second.needs(Needs()), frozenset())
    assert (said.node, said.reasons) == (None, {"n": "ann may have 1 at a time, and has 1"})
    assert other.turn(other.needs(Needs()), frozenset()).node == "n"
    nodes.get("n").release("a")
    line.forget("a")
    assert woken.is_set()
    assert second.turn(second.needs(Needs()), frozenset()).node == "n"


async def test_all_versions_of_an_image_count_together(nodes: Nodes) -> None:
    join(nodes, "n", "spot")
    line = Line(nodes, Rules(parse_quotas("image:example.org/course=1")))
    digest = "@sha256:" + "0" * 64
    first, _ = enter(line, nodes, "a", image=f"example.org/course:1{digest}")
    second, _ = enter(line, nodes, "b", image=f"example.org/course:2{digest}")
    other, _ = enter(line, nodes, "c", image=f"example.org/lecture:1{digest}")
    first.heads_for(nodes.get("n"))
    said = second.turn(second.needs(Needs()), frozenset())
    assert said.reasons == {"n": "1 at a time may be in example.org/course, and 1 are"}
    assert other.turn(other.needs(Needs()), frozenset()).node == "n"


async def test_what_was_brought_ahead_counts_where_it_is(nodes: Nodes) -> None:
    join(nodes, "a-far", "spot")
    join(nodes, "near", "spot")
    nodes.get("near").near["s"] = 10**9
    line = Line(nodes)
    whereto, _ = enter(line, nodes, "s")
    needs = whereto.needs(Needs(size=10**9))
    assert whereto.turn(needs, frozenset()).node == "near"
    line.forget("s")
    assert not nodes.get("near").near


async def test_never_on_demand_holds_for_moves_too(nodes: Nodes) -> None:
    join(nodes, "paid", "on-demand")
    line = Line(nodes, Rules(on_demand=None))
    either, _ = enter(line, nodes, "a")
    assert "on-demand" not in either.needs(Needs()).tiers
    only, _ = enter(line, nodes, "b", tiers=("on-demand",))
    assert only.needs(Needs()).tiers == ("on-demand",)
