"""Sessions that are too old or too large: nothing goes that was not warned of for the whole grace,
whatever clocks and gateways do meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.expiry import (
    LONGEST,
    NEVER,
    Excess,
    Facts,
    Limits,
    Warned,
    judge,
    parse_limits,
    spelled_limits,
    told,
)

DAY = 86400.0
LIMITS = Limits(age=300 * DAY, unused=30 * DAY, stored=10 << 30, grace=5 * DAY)
OLD = Facts(now=1000 * DAY, begun=0.0, used=1000 * DAY)


def test_nothing_is_said_of_a_session_within_its_limits() -> None:
    facts = Facts(now=1000 * DAY, begun=999 * DAY, used=999 * DAY, newest=1 << 30, stored=2 << 30)
    assert judge(LIMITS, facts, None, 60) == (None, None)
    assert judge(NEVER, OLD, None, 60) == (None, None)


@pytest.mark.parametrize(
    ("facts", "excess"),
    [
        (OLD, Excess("age")),
        (Facts(now=400 * DAY, begun=350 * DAY, used=360 * DAY), Excess("unused")),
        (Facts(0, 0, 0, newest=11 << 30, stored=11 << 30), Excess("stored")),
        (Facts(0, 0, 0, newest=9 << 30, stored=11 << 30), Excess("stored", "checkpoints")),
    ],
)
def test_the_first_look_warns_and_takes_nothing(facts: Facts, excess: Excess) -> None:
    assert judge(LIMITS, facts, None, 1000 * DAY) == (Warned(excess), None)


def test_the_first_look_after_a_month_off_counts_nothing_as_shown() -> None:
    before = Warned(Excess("age"), LIMITS.grace - 60)
    assert judge(LIMITS, OLD, before, 0.0) == (before, None)


def test_it_goes_when_the_grace_is_over() -> None:
    before = Warned(Excess("age"), LIMITS.grace - 60)
    stands, goes = judge(LIMITS, OLD, before, 60)
    assert (stands, goes) == (Warned(Excess("age"), LIMITS.grace), "session")


def test_a_session_that_is_used_again_is_not_warned_of_any_more() -> None:
    before = Warned(Excess("unused"), LIMITS.grace - 1)
    used = Facts(now=100 * DAY, begun=0, used=100 * DAY)
    assert judge(LIMITS, used, before, 60) == (None, None)


def test_a_warning_for_another_reason_is_shown_for_all_of_the_grace() -> None:
    before = Warned(Excess("unused"), LIMITS.grace - 1)
    assert judge(LIMITS, OLD, before, 60) == (Warned(Excess("age")), None)
    thinned = Warned(Excess("stored", "checkpoints"), LIMITS.grace - 1)
    large = Facts(0, 0, 0, newest=11 << 30, stored=11 << 30)
    assert judge(LIMITS, large, thinned, 60) == (Warned(Excess("stored")), None)


times = st.floats(-1e9, 1e12)
looks = st.lists(
    st.tuples(
        st.one_of(st.just(60.0), st.floats(0, 1e7)),  # how long the process did not look
        st.booleans(),  # whether it is another process by now
        times,  # what the wall clock says
        times,
        times,
        st.integers(0, 1 << 40),
        st.integers(0, 1 << 40),
    ),
    max_size=60,
)
limits = st.builds(
    Limits,
    age=st.none() | st.floats(1, 1e9),
    unused=st.none() | st.floats(1, 1e9),
    stored=st.none() | st.integers(1, 1 << 40),
    grace=st.floats(1, 2000),
)


@given(limits, looks)
def test_nothing_goes_that_was_not_shown_for_the_whole_grace(
    limits: Limits, looks: list[tuple[float, bool, float, float, float, int, int]]
) -> None:
    """The history is told by somebody who sees the warning, and counts by a clock that is right."""
    stands: Warned | None = None
    seen = 0.0
    for gap, restarted, now, begun, used, newest, stored in looks:
        facts = Facts(now, begun, used, newest, newest + stored)
        # A process that was not there, or stood still, showed nothing.
        elapsed = 0.0 if restarted else gap
        if stands is not None and not restarted:
            seen += min(gap, LONGEST)
        before, (stands, goes) = stands, judge(limits, facts, stands, elapsed)
        if before is None or stands is None or before.excess != stands.excess:
            assert goes is None
            seen = 0.0
        if goes is not None:
            assert stands is not None
            assert goes == stands.excess.goes
            assert seen >= limits.grace * (1 - 1e-9)
            stands, seen = None, 0.0


@given(limits)
def test_limits_are_read_as_they_are_written(limits: Limits) -> None:
    again = parse_limits(spelled_limits(limits))
    assert again.stored == limits.stored
    for one in ("age", "unused", *(["grace"] if limits else [])):
        assert getattr(again, one) == pytest.approx(getattr(limits, one), abs=1e-3)


def test_limits_as_they_are_typed() -> None:
    found = parse_limits("age=365d, unused=90d,stored=20G,grace=14d")
    assert found == Limits(365 * DAY, 90 * DAY, 20 << 30, 14 * DAY)
    assert parse_limits("never") == NEVER
    assert not parse_limits("never")


@pytest.mark.parametrize("text", ["", "90d", "age=", "age=soon", "size=3", "age=0", "grace=0s"])
def test_limits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be|is neither"):
        parse_limits(text)


def test_a_warning_says_what_goes_when_why_and_what_to_do() -> None:
    words = told("course", Warned(Excess("unused"), 1.5 * DAY), LIMITS)
    assert "will be deleted in 4 days" in words
    assert "not used for 30 days" in words
    assert "`sessionkeeper session export course`" in words
    assert "run a cell" in words
    words = told("course", Warned(Excess("stored", "checkpoints"), 5 * DAY - 7000), LIMITS)
    assert "in 2 hours" in words
    assert "10 GiB" in words


def test_the_words_change_once_a_day_not_at_every_look() -> None:
    said = {told("one", Warned(Excess("age"), shown), LIMITS) for shown in range(0, 345600, 60)}
    assert len(said) == 4
