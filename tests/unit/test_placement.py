"""Which node a session gets, and why not another one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.cpu import Cpu
from sessionkeeper.placement import (
    TIER_ORDER,
    Choice,
    Needs,
    NodeFacts,
    choose,
    differ,
    explain,
)

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


def test_the_cheaper_one_wins_and_one_that_goes_less_often_and_one_that_has_the_bytes() -> None:
    cheap, dear = replace(SPOT, name="b", price=0.01), replace(SPOT, name="a", price=0.03)
    assert choose([dear, cheap], Needs()).node == "b"
    steady = replace(dear, rate=1 / 24, price=0.01)
    assert choose([steady, replace(cheap, rate=1.0)], Needs()).node == "a"
    needs = Needs(size=10**9, near={"a": 10**9})
    assert choose([replace(dear, price=0.02), cheap], needs).node == "a"
    # A few bytes are no reason to pay more.
    assert choose([dear, cheap], Needs(size=10**6, near={"a": 10**6})).node == "b"


def test_price_is_that_of_a_core_so_a_large_node_is_not_dear() -> None:
    large = replace(SPOT, name="large", price=0.16, cores=16)
    assert choose([large, replace(SPOT, name="little", price=0.02)], Needs()).node == "large"


def test_on_demand_is_last_even_if_it_has_the_image_unless_it_is_all_there_may_be() -> None:
    paid = replace(PAID, present=frozenset({"course"}), price=0.0)
    assert choose([paid, SPOT], Needs(image="course")).node == "spot"
    assert choose([paid, SPOT], Needs(image="course", tiers=("on-demand",))).node == "paid"


def test_a_node_that_cannot_have_the_image_or_the_cores_does_not_fit_and_says_so() -> None:
    sealed = replace(SPOT, present=frozenset({"other"}), fetches=False)
    assert choose([sealed], Needs(image="course")).reasons == {
        "spot": "does not have the image of its kernels, and cannot fetch it"
    }
    assert choose([replace(sealed, fetches=True)], Needs(image="course")).node == "spot"
    assert choose([sealed], Needs(image="other")).node == "spot"
    assert str(choose([SPOT], Needs(cores=2))) == "spot: has 1 core, and 2 are wanted"
    busy = replace(SPOT, cores=4, promised_cores=3.5)
    assert str(choose([busy], Needs(cores=1))) == "spot: has 0.5 cores left, and 1 are wanted"


def test_every_node_is_explained_with_what_its_score_is_made_of() -> None:
    fits, does_not = explain([replace(PAID, ready=False), SPOT], Needs(size=200_000_000))
    assert (fits.node, fits.reason) == ("spot", "")
    assert (does_not.node, does_not.reason) == ("paid", "is not ready")
    assert str(fits.score) == ("0.70 = price 0.25 + interruptions 0.30 + waiting 0.12 + crowd 0.03")


@given(NODES, NEEDS)
def test_what_is_explained_begins_with_what_is_chosen(nodes: list[NodeFacts], needs: Needs) -> None:
    said, choice = explain(nodes, needs), choose(nodes, needs)
    assert {one.node for one in said} == {node.name for node in nodes}
    if choice.node is not None:
        assert said[0].node == choice.node
    assert {one.node: one.reason for one in said if one.reason}.keys() <= choice.reasons.keys()


def test_node_that_has_the_image_is_taken_before_one_that_would_have_to_fetch_it():
    image = "sha256:1"
    has_not = replace(SPOT, name="a", load=0)
    has = replace(has_not, name="z", present=frozenset({image}))
    choice = choose([has, has_not], Needs(image=image))
    assert (choice.node, choice.reasons) == ("z", {"a": "z is preferred, which has the image"})
