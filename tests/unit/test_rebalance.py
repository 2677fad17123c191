"""When a session moves to a cheaper node, and that it never goes to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.placement import TIER_ORDER, Needs, NodeFacts
from sessionkeeper.rebalance import APART, CALM, MARGIN, Advice, Situation, advise, running_cost

PAID, SPOT = NodeFacts("paid", ready=True), NodeFacts("spot", ready=True, tier="spot")
CALMLY = Situation(now=10_000.0, came=0.0, active=0.0, moved=0.0, busy=False)
AFTER = 600.0
ANY = Needs()


def advice(here: NodeFacts = PAID, *others: NodeFacts, needs: Needs = ANY, **now: object) -> Advice:
    return advise(replace(CALMLY, **now), AFTER, here, [here, *others], needs)  # type: ignore[arg-type]


def test_a_calm_session_moves_to_a_node_that_costs_much_less_and_not_back() -> None:
    assert advice(PAID, SPOT) == Advice("spot")
    assert advice(SPOT, PAID) == Advice()


def test_a_little_cheaper_is_no_reason() -> None:
    cheaper = replace(PAID, name="other", price=0.03)
    assert running_cost(cheaper) > (1 - MARGIN) * running_cost(PAID)
    assert advice(PAID, cheaper) == Advice()


def test_a_cheap_node_that_goes_all_the_time_is_no_better() -> None:
    assert advice(PAID, replace(SPOT, rate=2.0)) == Advice()


@pytest.mark.parametrize(
    ("now", "again"),
    [
        ({"came": 10_000.0 - 100.0}, 500.0),
        ({"active": 10_000.0 - 1.0}, CALM - 1.0),
        ({"moved": 10_000.0 - 2.0}, APART - 2.0),
        ({"busy": True}, None),
        ({"line": True}, None),
    ],
)
def test_it_waits_for_a_good_moment(now: dict[str, object], again: float | None) -> None:
    assert advice(PAID, SPOT, **now) == Advice(again=again)  # type: ignore[arg-type]


def test_an_operator_can_turn_it_off() -> None:
    assert advise(CALMLY, None, PAID, [SPOT], Needs()) == Advice()


def test_nothing_that_it_needs_is_given_up_for_money() -> None:
    assert advice(PAID, replace(SPOT, ready=False)) == Advice()
    assert advice(PAID, SPOT, needs=Needs(tiers=("on-demand",))) == Advice()
    plain = replace(SPOT, runtime="process")
    assert advice(PAID, plain, needs=Needs(engine="criu", variables=True)) == Advice()
    assert advice(PAID, replace(SPOT, memory=4, promised=3), needs=Needs(memory=2)) == Advice()


NODES = st.lists(
    st.builds(
        NodeFacts,
        name=st.uuids().map(str),
        ready=st.just(True),
        tier=st.sampled_from(TIER_ORDER),
        cores=st.integers(1, 8),
        memory=st.integers(1, 8),
        price=st.none() | st.floats(0, 1),
        rate=st.none() | st.floats(0, 2),
    ),
    min_size=1,
    max_size=6,
)


@given(NODES, st.lists(st.integers(0, 3), min_size=1, max_size=8), st.randoms())
def test_sessions_never_flap_in_a_pool_that_stays_as_it_is(
    nodes: list[NodeFacts], sizes: list[int], chance: object
) -> None:
    places = dict.fromkeys(range(len(sizes)), nodes[0].name)
    been: dict[int, set[str]] = {n: {nodes[0].name} for n in places}
    for _ in range(len(nodes) * len(sizes) + 1):
        moved = False
        for number, size in enumerate(sizes):
            facts = {
                node.name: replace(
                    node,
                    load=sum(at == node.name for n, at in places.items() if n != number),
                    promised=sum(
                        sizes[n] for n, at in places.items() if at == node.name and n != number
                    ),
                )
                for node in nodes
            }
            here = facts[places[number]]
            target = advise(CALMLY, AFTER, here, facts.values(), Needs(memory=size)).target
            if target is not None:
                assert target not in been[number]
                assert running_cost(facts[target]) < running_cost(here)
                been[number].add(target)
                places[number], moved = target, True
        if not moved:
            return
    raise AssertionError("they still move")
