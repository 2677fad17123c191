"""Which compute is started and stopped, as a table and as what must always hold."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.compute.backend import Found
from sessionkeeper.compute.plan import (
    Known,
    Plan,
    Rules,
    Setback,
    Wish,
    free_name,
    is_compute,
    plan,
)
from sessionkeeper.registration import Registration

RULES = Rules({"spot": 60.0}, longest_start=600.0, joining=30.0, grace=20.0, last_resort=90.0)
ANN = Registration("ann", tiers=("spot", "on-demand"))
NAME = free_name("ann", "", set())
SECOND = free_name("ann", "", {NAME})
FOUND = Found(NAME, "ann", "spot", "running")
HERE = Known(FOUND, 0.0, joined=True, served=True)
NOW = 1000.0


def planned(wish: Wish | None, *known: Known, back: Setback | None = None) -> Plan:
    return plan([wish] if wish else [], known, NOW, RULES, {} if back is None else {"ann": back})


def started(what: Plan) -> list[tuple[str, str]]:
    return [(one.name, one.tier) for one in what.start]


def test_a_session_that_needs_compute_gets_one_in_the_cheapest_tier() -> None:
    assert started(planned(Wish(ANN, needs=True))) == [(NAME, "spot")]


def test_a_session_that_may_have_no_tier_now_gets_none() -> None:
    assert planned(Wish(replace(ANN, tiers=()), needs=True)) == Plan()


def test_what_is_on_its_way_is_waited_for() -> None:
    for phase in ("starting", "running"):
        coming = Known(replace(FOUND, phase=phase), NOW - 10)
        assert planned(Wish(ANN, needs=True), coming) == Plan()


def test_a_session_whose_node_leaves_gets_another_one_beside_it() -> None:
    leaving = replace(HERE, leaving=True)
    assert started(planned(Wish(ANN, needs=True, on=NAME), leaving)) == [(SECOND, "spot")]
    ending = replace(HERE, found=replace(FOUND, phase="ending"), since=NOW - 5)
    assert started(planned(Wish(ANN, needs=True, on=NAME), ending)) == [(SECOND, "spot")]


def test_a_node_that_was_lost_is_replaced_at_once_and_is_no_setback() -> None:
    lost = replace(HERE, joined=False)
    what = planned(Wish(ANN, needs=True), lost)
    assert started(what) == [(SECOND, "spot")]
    assert what.stop == ((NAME, False),)
    assert what.failed == ()


def test_what_does_not_come_in_time_is_given_up_for_the_next_tier() -> None:
    late = Known(replace(FOUND, phase="starting"), NOW - 61)
    what = planned(Wish(ANN, needs=True), late)
    assert (what.stop, what.failed) == (((NAME, False),), (late.found,))
    back = Setback(1, NOW, ("spot",))
    assert started(planned(Wish(ANN, needs=True), back=back)) == [(NAME, "on-demand")]


def test_without_a_chance_it_is_tried_ever_less_often() -> None:
    often = Setback(5, NOW - 30, ("spot", "on-demand"))
    assert planned(Wish(ANN, needs=True), back=often) == Plan()
    later = replace(often, at=NOW - 31)
    assert started(planned(Wish(ANN, needs=True), back=later)) == [(NAME, "spot")]


def test_what_nobody_wants_goes_after_a_grace() -> None:
    what = planned(None, HERE)
    assert (what.stop, what.idle) == ((), frozenset({NAME}))
    assert planned(None, replace(HERE, idle_since=NOW - 20)).stop == ((NAME, False),)
    assert planned(Wish(ANN, needs=False, on=NAME), replace(HERE, idle_since=NOW - 99)).stop == ()


def test_of_two_the_one_that_has_the_session_stays() -> None:
    second = replace(HERE, found=replace(FOUND, name=SECOND))
    assert planned(Wish(ANN, needs=False, on=SECOND), HERE, second).idle == {NAME}
    assert planned(Wish(ANN, needs=True), HERE, second).idle == {SECOND}


def test_records_of_what_ended_are_cleared_away() -> None:
    ended = Known(replace(FOUND, phase="ended"), NOW)
    assert planned(None, ended).stop == ((NAME, False),)
    assert planned(Wish(ANN, needs=True), ended).failed == (ended.found,)
    assert planned(Wish(ANN, needs=True), replace(ended, served=True)).failed == ()


def test_what_does_not_end_is_held_to_be_gone() -> None:
    for wish in (None, Wish(ANN, needs=False)):
        ending = Known(replace(FOUND, phase="ending"), NOW - 91)
        assert planned(wish, ending).stop == ((NAME, True),)
        assert planned(wish, replace(ending, since=NOW - 89)).stop == ()


@given(st.text(max_size=128), st.text(max_size=20), st.integers(1, 50))
def test_names_are_good_for_the_cluster_and_for_a_node(session: str, owner: str, n: int) -> None:
    taken: set[str] = set()
    for _ in range(n):
        taken.add(free_name(session, owner, taken))
    assert len(taken) == n
    for name in taken:
        assert len(name) <= 40
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        assert is_compute(name)
    assert free_name(session, owner, set()) == free_name(session, owner, set())
    assert free_name(session, owner + "x", set()) not in taken


PHASES = st.sampled_from(["starting", "running", "ending", "ended"])
KNOWN = st.lists(
    st.builds(
        lambda n, phase, since, joined, served, leaving, idle: Known(
            Found(f"{NAME[:-1]}{n}", "ann", "spot", phase), since, joined, served, leaving, idle
        ),
        st.integers(1, 4),
        PHASES,
        st.floats(0, NOW),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.none() | st.floats(0, NOW),
    ),
    unique_by=lambda one: one.found.name,
    max_size=4,
)


@given(KNOWN, st.booleans(), st.none() | st.sampled_from([1, 2, 3, 4]))
def test_it_never_starts_what_is_there_nor_two_nor_stops_what_the_session_is_on(
    known: list[Known], needs: bool, on: int | None
) -> None:
    host = f"{NAME[:-1]}{on}" if on else None
    what = planned(Wish(ANN, needs, host), *known)
    assert len(what.start) <= 1
    names = {one.found.name: one for one in known}
    assert not {one.name for one in what.start} & set(names)
    for name, _ in what.stop:
        if name == host:
            gone = names[name].found.phase in ("ended", "ending")
            assert gone or not names[name].joined
