"""What a node that goes saves of its sessions by the deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.agent.plan import EACH, Planned, Rates, Unsaved, plan

MB = 10**6
RATES = Rates(each=0.1, dump=500 * MB, upload=100 * MB, at_once=2)


def session(name: str, size: int = 50, fresh: int = 5, work: float = 1.0) -> Unsaved:
    return Unsaved(name, size * MB, fresh * MB, work)


A, B, C = session("a"), session("b"), session("c")
HUGE = session("huge", size=5000, fresh=50, work=30.0)
NEW = session("new", fresh=50)
IDLE = session("idle", work=0.0)
NEVER_SENT = session("never sent", size=400, fresh=400, work=2.0)

TABLE = {
    "time for all": ([A, B, C], 2.0, ["a changes", "b changes", "c changes"]),
    "one that the store has nothing of": ([NEW], 2.0, ["new whole"]),
    "no time at all": ([A, B], 0.1, ["a newest", "b newest"]),
    "none left": ([A], -1.0, ["a newest"]),
    "most work first": (
        [IDLE, A, session("b", work=9)],
        0.31,
        ["b changes", "a changes", "idle newest"],
    ),
    "one that takes all the time is not worth many small ones": (
        [session("large", size=100, fresh=60, work=1.2), A, B, C],
        0.62,
        ["a changes", "b changes", "c changes", "large newest"],
    ),
    "one with much to lose is worth many small ones": (
        [A, B, C, session("large", size=100, fresh=55, work=60)],
        0.90,
        ["large changes", "newest", "newest", "newest"],
    ),
    "what cannot make it is not in the way": ([HUGE, A], 2.0, ["a changes", "huge newest"]),
    "the line is what there is too little of": (
        [NEVER_SENT, A, B],
        5.2,
        ["a changes", "b changes", "never sent whole"],
    ),
}


@pytest.mark.parametrize(("sessions", "left", "wanted"), TABLE.values(), ids=TABLE.keys())
def test_plan_saves_what_is_worth_most_by_the_deadline(
    sessions: list[Unsaved], left: float, wanted: list[str]
) -> None:
    planned = plan(sessions, RATES, left)
    told = [f"{one.session} {one.todo}" for one in planned]
    assert all(found.endswith(words) for found, words in zip(told, wanted, strict=True)), told


unsaved = st.builds(
    Unsaved,
    session=st.uuids().map(str),
    size=st.integers(0, 4000 * MB),
    fresh=st.integers(0, 4000 * MB),
    work=st.floats(0, 4000),
)
rates = st.builds(
    Rates,
    each=st.floats(0.01, 2),
    dump=st.floats(10 * MB, 2000 * MB),
    upload=st.floats(MB, 1000 * MB),
    at_once=st.integers(1, 8),
)
lists = st.lists(unsaved, max_size=12, unique_by=lambda one: one.session)


@given(lists, rates, st.floats(0, 60))
def test_nothing_is_planned_past_the_deadline_on_processors_and_a_line_as_they_are(
    sessions: list[Unsaved], rates: Rates, left: float
) -> None:
    planned = plan(sessions, rates, left)
    assert sorted(one.session for one in planned) == sorted(one.session for one in sessions)
    known = {one.session: one for one in sessions}
    done = happens([known[one.session] for one in planned if one.todo != "newest"], rates)
    assert done == [one.done for one in planned if one.todo != "newest"]
    assert all(at <= left for at in done)


@given(lists, rates, st.floats(0, 60))
def test_it_saves_at_least_as_much_as_taking_them_as_they_come(
    sessions: list[Unsaved], rates: Rates, left: float
) -> None:
    taken: list[Unsaved] = []
    for one in sessions:
        if happens([*taken, one], rates)[-1] <= left:
            taken.append(one)
    assert worth(plan(sessions, rates, left), sessions) >= sum(o.work + EACH for o in taken) - 1e-6


def happens(order: list[Unsaved], rates: Rates) -> list[float]:
    """When each is in the store, if they are begun in this order."""
    free, line, done = [0.0] * rates.at_once, 0.0, []
    for one in order:
        processor = free.index(min(free))
        free[processor] += rates.each + one.size / rates.dump
        line = max(free[processor], line) + one.fresh / rates.upload
        done.append(line)
    return done


def worth(planned: list[Planned], sessions: list[Unsaved]) -> float:
    known = {one.session: one.work for one in sessions}
    return sum(known[one.session] + EACH for one in planned if one.todo != "newest")
