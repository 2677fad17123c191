"""Who is given a node, and what the others are told."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.bench.placing import placement_s
from sessionkeeper.line import Waiting, order, place
from sessionkeeper.placement import Needs, NodeFacts, choose, unfit

GIB = 1 << 30
SMALL, LARGE = (
    NodeFacts("small", ready=True, memory=GIB),
    NodeFacts("large", ready=True, memory=4 * GIB),
)
NEEDS = Needs(memory=GIB)


def waits(session: str, since: float, owner: str = "", needs: Needs = NEEDS) -> Waiting:
    return Waiting(session, owner, needs, since)


def test_who_asked_first_is_first_and_the_others_are_told_their_place() -> None:
    got = place([SMALL], [waits("c", 3), waits("a", 1), waits("b", 2)], {})
    assert got["a"].node == "small"
    assert (got["b"].place, got["c"].place, got["c"].line) == (1, 2, 2)
    assert str(got["c"]) == (
        "place 2 of 2 in the line: small: has 0.00 GiB of memory left, and 1.00 GiB are wanted"
    )


def test_an_owner_with_much_does_not_keep_one_with_little_waiting() -> None:
    many = [waits(f"many-{n}", n, "rich") for n in range(3)]
    line = [one.session for one in order([*many, waits("one", 9, "poor")], {"rich": 1})]
    assert line == ["one", "many-0", "many-1", "many-2"]
    line = [one.session for one in order([*many, waits("one", 9, "poor")], {})]
    assert line == ["many-0", "one", "many-1", "many-2"]


def test_small_ones_do_not_take_the_room_away_that_a_large_one_waits_for() -> None:
    half = replace(LARGE, promised=2 * GIB)
    big = waits("big", 1, needs=Needs(memory=3 * GIB))
    got = place([half], [big, waits("little", 2)], {})
    assert (got["big"].place, got["little"].place) == (1, 2)
    assert got["little"].reasons == {"large": "is kept free for big"}
    got = place([half, SMALL], [big, waits("little", 2)], {})
    assert got["little"].node == "small"


def test_one_that_fits_nowhere_keeps_nothing_free() -> None:
    got = place([SMALL], [waits("huge", 1, needs=Needs(memory=9 * GIB)), waits("little", 2)], {})
    assert got["little"].node == "small"
    assert got["huge"].reasons == {"small": "has 1.00 GiB of memory, and 9.00 GiB are wanted"}


def test_sessions_spread_over_nodes_by_their_cores() -> None:
    two, six = NodeFacts("two", ready=True, cores=2), NodeFacts("six", ready=True, cores=6)
    got = place([two, six], [waits(str(n), n) for n in range(8)], {})
    nodes = [choice.node for choice in got.values()]
    assert (nodes.count("two"), nodes.count("six")) == (2, 6)


def test_a_tier_that_may_not_be_used_is_named() -> None:
    home = NodeFacts("home", ready=True, tier="volunteer")
    got = place([home], [waits("a", 1, needs=Needs(tiers=("spot", "on-demand")))], {})
    assert got["a"].reasons == {"home": "is of the tier volunteer, which it may not use"}


NODES = st.lists(
    st.builds(
        NodeFacts,
        name=st.uuids().map(str),
        ready=st.booleans(),
        tier=st.sampled_from(("spot", "on-demand")),
        load=st.integers(0, 3),
        cores=st.integers(1, 4),
        memory=st.none() | st.integers(0, 5),
        promised=st.integers(0, 3),
    ),
    max_size=5,
)
WAITING = st.lists(
    st.builds(
        Waiting,
        session=st.uuids().map(str),
        owner=st.sampled_from("ab"),
        needs=st.builds(Needs, memory=st.integers(0, 4)),
        since=st.floats(0, 10),
    ),
    max_size=8,
)


@given(NODES, WAITING)
def test_what_is_given_fits_and_is_what_one_after_the_other_would_have_chosen(
    nodes: list[NodeFacts], waiting: list[Waiting]
) -> None:
    got = place(nodes, waiting, {})
    state = {node.name: node for node in nodes}
    refused = False
    for one in order(waiting, {}):
        choice = got[one.session]
        if choice.node is None:
            assert choice.reasons.keys() == state.keys()
            refused = True
            continue
        assert unfit(state[choice.node], one.needs) is None
        if not refused:
            assert choice.node == choose(list(state.values()), one.needs).node
        node = state[choice.node]
        promised = node.promised + one.needs.memory
        state[choice.node] = replace(node, load=node.load + 1, promised=promised)
    first = next((one for one in order(waiting, {}) if got[one.session].node is None), None)
    if first is not None:
        assert got[first.session].place == 1


def test_ten_thousand_sessions_are_placed_on_five_hundred_nodes_in_two_seconds() -> None:
    assert placement_s() < 2
