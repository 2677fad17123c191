"""Which node a session gets, and why not another one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.cpu import Cpu
from sessionkeeper.placement import TIER_ORDER, Choice, Needs, NodeFacts, choose, differ

SPOT = NodeFacts("spot", ready=True, tier="spot", load=3)
HOME = NodeFacts("home", ready=True, tier="volunteer")
PAID = NodeFacts("paid", ready=True, tier="on-demand")


def test_cheapest_tier_wins_whatever_its_load() -> None:
    choice = choose([PAID, HOME, SPOT], Needs())
    assert choice == Choice("spot", dict.fromkeys(("home", "paid"), "spot is preferred"))
    assert str(choice) == "spot"


def test_in_one_tier_the_least_loaded_wins_then_the_first_by_name() -> None:
    busy, idle, other = replace(SPOT, name="a"), replace(SPOT, name="c", load=1), SPOT
    assert choose([busy, idle, other], Needs()).node == "c"
    assert choose([other, busy], Needs()).node == "a"


def test_a_node_that_was_started_for_a_session_is_for_nobody_else() -> None:
    own = replace(SPOT, only="ann")
    assert choose([own], Needs()).reasons == {"spot": "is another session's own"}
    assert choose([own], Needs(only="ben")).node is None
    assert choose([own], Needs(only="ann")).node == "spot"
    assert choose([HOME, replace(SPOT, only="")], Needs(only="ann")).node == "home"


def test_on_demand_is_taken_when_there_is_nothing_else() -> None:
    choice = choose([PAID, replace(SPOT, ready=False)], Needs(avoid=frozenset({"home"})))
    assert choice == Choice("paid", {"spot": "is not ready"})


def test_process_images_are_restored_where_that_works_on_the_same_cpu() -> None:
    nodes = [
        replace(SPOT, runtime="process"),
        replace(HOME, cpu=Cpu("other")),
        replace(PAID, cpu=Cpu("same")),
    ]
    assert choose(nodes, Needs(engine="criu", cpu=Cpu("same"))) == Choice(
        "paid",
        {
            "spot": "cannot restore process images",
            "home": "has a CPU (other) that lacks features of same",
        },
    )
    assert choose(nodes, Needs(engine="namespace", cpu=Cpu("same"))).node == "spot"


def test_a_node_without_images_is_second_choice_where_there_are_variables() -> None:
    plain, other = replace(SPOT, runtime="process"), replace(HOME, cpu=Cpu("other"))
    needs = Needs(engine="criu", cpu=Cpu("same"), variables=True)
    assert choose([plain, other, replace(PAID, cpu=Cpu("same"))], needs).node == "paid"
    assert choose([plain, other], needs).node == "spot"
    assert choose([plain, other], replace(needs, variables=False)).node is None


def test_variables_are_wanted_where_a_node_that_stays_could_not_take_the_images() -> None:
    host = replace(PAID, cpu=Cpu("new"), images=Cpu("new"))
    like, unlike = replace(HOME, cpu=Cpu("new")), replace(SPOT, cpu=Cpu("old"))
    needs = Needs(engine="criu", cpu=Cpu("new"))
    assert not differ(host, [host, like], needs)
    assert differ(host, [host, like, unlike], needs)
    assert differ(host, [replace(like, runtime="process")], needs)
    assert not differ(host, [replace(unlike, state="lost")], needs)
    assert not differ(replace(host, runtime="process"), [unlike], Needs(engine="namespace"))
    # Of a session that came from elsewhere also what it brought counts.
    assert differ(replace(host, images=Cpu("base")), [replace(like, cpu=Cpu("base"))], needs)


def test_unknown_cpu_is_no_reason_to_refuse_a_node() -> None:
    assert choose([SPOT], Needs(engine="criu", cpu=Cpu("some"))).node == "spot"
    assert choose([replace(SPOT, cpu=Cpu("some"))], Needs(engine="criu")).node == "spot"


def test_a_node_that_has_just_failed_is_avoided_and_that_is_said() -> None:
    choice = choose([SPOT], Needs(avoid=frozenset({"spot"})))
    assert choice.node is None
    assert str(choice) == "spot: has just failed to run it"


def test_without_nodes_the_reason_is_that_there_is_none() -> None:
    assert str(choose([], Needs())) == "there is no node"


NODES = st.lists(
    st.builds(
        NodeFacts,
        name=st.sampled_from("abcdef"),
        ready=st.booleans(),
        tier=st.sampled_from(TIER_ORDER),
        runtime=st.sampled_from(("container", "process")),
        load=st.integers(0, 3),
        cpu=st.sampled_from((Cpu(""), Cpu("one"), Cpu("two"))),
    ),
    unique_by=lambda node: node.name,
)
NEEDS = st.builds(
    Needs,
    engine=st.sampled_from((None, "criu", "namespace")),
    cpu=st.sampled_from((None, Cpu("one"))),
    variables=st.booleans(),
    avoid=st.frozensets(st.sampled_from("abcdef")),
)


@given(NODES, NEEDS)
def test_every_node_is_taken_or_has_its_reason(nodes: list[NodeFacts], needs: Needs) -> None:
    choice = choose(nodes, needs)
    assert set(choice.reasons) == {n.name for n in nodes} - {choice.node}
    assert all(choice.reasons.values())


@given(NODES, NEEDS)
def test_order_of_the_nodes_does_not_matter(nodes: list[NodeFacts], needs: Needs) -> None:
    assert choose(nodes, needs) == choose(nodes[::-1], needs)
