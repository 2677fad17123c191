"""What a session does next: a table of situations, and what holds in all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.placement import TIER_ORDER, Needs, NodeFacts
from sessionkeeper.session import (
    End,
    Facts,
    GiveUp,
    GoBack,
    Lose,
    Move,
    Open,
    Placed,
    Rest,
    Secure,
    Serve,
    Step,
    Wait,
    decide,
)

A, B = NodeFacts("a", ready=True), NodeFacts("b", ready=True)
PROCESSES = NodeFacts("p", ready=True, runtime="process")
ON_A = Placed("a", 3, up=True)
DUMPED = Needs(engine="criu")


def facts(**changes: Any) -> Facts:
    return replace(Facts(wanted=True, placed=None, nodes=(A, B)), **changes)


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (facts(wanted=False), Rest()),
        (facts(wanted=False, nodes=()), Rest()),
        (facts(), Open("a")),
        (facts(failed=only("a")), Open("b")),
        (facts(leaving=only("a")), Open("b")),
        (facts(lost=only("a")), Open("b")),
        (facts(failed=only("a", "b")), GiveUp(only("a", "b"))),
        (facts(placed=ON_A), Serve()),
        (facts(placed=replace(ON_A, up=False)), Serve()),
        (facts(placed=ON_A, wanted=False), Serve()),
        (facts(placed=ON_A, nodes=(B,)), Serve()),
        (facts(placed=ON_A, lost=only("a")), Lose(ON_A)),
        (facts(placed=ON_A, lost=only("a"), leaving=only("a")), Lose(ON_A)),
        (facts(placed=ON_A, lost=only("a"), wanted=False), Lose(ON_A)),
        (facts(placed=ON_A, leaving=only("a")), Move("b")),
        (facts(placed=ON_A, leaving=only("b")), Serve()),
        (facts(placed=ON_A, go_back=True, leaving=only("a")), GoBack()),
        (facts(placed=ON_A, go_back=True, lost=only("a")), Lose(ON_A)),
        (facts(placed=ON_A, over=2), Serve()),
        (facts(placed=ON_A, over=3), End()),
        (facts(wanted=False, go_back=True), GoBack()),
        # What no checkpoint has is saved by a node first.
        (facts(wanted=False, go_back=True, unsaved=True), Open("a")),
    ],
)
def test_next_step(situation: Facts, expected: Step) -> None:
    assert decide(situation) == expected


def test_where_nothing_fits_the_session_waits_and_says_why_for_each_node() -> None:
    step = decide(facts(nodes=(replace(A, ready=False), PROCESSES), needs=DUMPED))
    assert isinstance(step, Wait)
    assert str(step.why) == "a: is not ready; p: cannot restore process images"
    none = decide(facts(nodes=()))
    assert isinstance(none, Wait)
    assert str(none.why) == "there is no node"


def test_session_on_a_leaving_node_without_an_alternative_is_secured_there() -> None:
    step = decide(facts(placed=ON_A, leaving=only("a", "b")))
    assert isinstance(step, Secure)
    assert "b: is not ready" in str(step.why)


def test_node_that_does_not_fit_anyway_keeps_nobody_from_giving_up() -> None:
    step = decide(facts(nodes=(A, PROCESSES), needs=DUMPED, failed=only("a")))
    assert step == GiveUp(only("a"))


def test_node_that_failed_and_is_away_now_is_waited_for() -> None:
    step = decide(facts(nodes=(replace(A, ready=False),), failed=only("a")))
    assert isinstance(step, Wait)


NAMES = ("a", "b", "c")
NODES = st.sets(st.sampled_from(NAMES)).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                NodeFacts,
                name=st.just(name),
                ready=st.booleans(),
                tier=st.sampled_from(TIER_ORDER),
                runtime=st.sampled_from(("container", "process")),
                load=st.integers(0, 2),
            )
            for name in sorted(names)
        )
    )
)
SOME = st.frozensets(st.sampled_from(NAMES))
FACTS = st.builds(
    Facts,
    wanted=st.booleans(),
    placed=st.none() | st.builds(Placed, st.sampled_from(NAMES), st.integers(1, 9), st.booleans()),
    nodes=NODES,
    lost=SOME,
    leaving=SOME,
    go_back=st.booleans(),
    unsaved=st.booleans(),
    over=st.integers(0, 9),
    needs=st.builds(Needs, engine=st.sampled_from((None, "criu"))),
    failed=SOME,
)


@given(FACTS)
def test_session_is_only_ever_opened_where_it_can_live_and_lives_nowhere_else(known: Facts) -> None:
    match decide(known):
        case Open(node):
            assert known.placed is None  # never two incarnations
            assert known.wanted or known.go_back
        case Move(node):
            assert known.placed is not None
            assert node != known.placed.node
        case _:
            return
    assert node not in known.lost | known.leaving | known.failed
    [chosen] = [n for n in known.nodes if n.name == node]
    assert chosen.ready
    assert known.needs.engine is None or chosen.runtime == "container"


@given(FACTS)
def test_what_was_lost_is_lost_before_anything_else(known: Facts) -> None:
    lost = known.placed is not None and known.placed.node in known.lost
    assert isinstance(decide(known), Lose) == lost


@given(FACTS)
def test_nothing_is_given_up_while_a_node_is_left_to_try(known: Facts) -> None:
    step = decide(known)
    if isinstance(step, GiveUp):
        assert step.nodes == known.failed
        assert not isinstance(decide(replace(known, failed=frozenset())), Wait)
    if isinstance(step, Wait):
        assert not isinstance(decide(replace(known, failed=frozenset())), Open)
