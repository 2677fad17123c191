"""When a checkpoint is due. Times in seconds on one clock."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.policy import (
    LARGEST_SHARE,
    LATEST,
    MEAN_TIME_BETWEEN_FAILURES,
    QUIET,
    SMALLEST_SHARE,
    Situation,
    due,
)

BETWEEN = Situation(now=1000.0, last=0.0, cost=0.2, busy=False, changed=1000.0, active=1000.0)
DURING = replace(BETWEEN, busy=True, last=1000.0)


def at(now: float, situation: Situation = BETWEEN, **changes: Any) -> float | None:
    return due(replace(situation, now=now, **changes))


def test_nothing_is_due_when_nothing_changed() -> None:
    assert at(1000.0, changed=None) is None
    assert at(9999.0, changed=None) is None


def test_between_cells_it_is_due_at_the_first_pause() -> None:
    assert at(1000.0) == QUIET
    assert at(1000.1) == pytest.approx(QUIET - 0.1)
    assert at(1000.0 + QUIET) == 0.0


def test_every_cell_in_a_row_puts_it_off_but_not_for_ever() -> None:
    assert at(1003.0, active=1003.0) == pytest.approx(QUIET)
    assert at(1000.0 + LATEST, active=1000.0 + LATEST) == 0.0


def test_a_session_does_not_mostly_stand_still() -> None:
    cost = 3.0
    assert at(1000.5, last=999.0, cost=cost) == pytest.approx(cost / LARGEST_SHARE - 1.5)
    assert at(999.0 + cost / LARGEST_SHARE, last=999.0, cost=cost) == 0.0


@pytest.mark.parametrize("tier", MEAN_TIME_BETWEEN_FAILURES)
def test_during_a_cell_the_interval_is_youngs_or_what_costs_next_to_nothing(tier: str) -> None:
    interval = sqrt(2 * 0.2 * MEAN_TIME_BETWEEN_FAILURES[tier])
    interval = min(interval, 0.2 / SMALLEST_SHARE)
    assert at(1000.0, DURING, tier=tier) == pytest.approx(interval)
    assert at(1000.0 + interval, DURING, tier=tier) == 0.0


def test_a_node_that_goes_more_often_is_saved_more_often() -> None:
    waits = [at(1000.0, DURING, tier=t) for t in ("volunteer", "spot", "on-demand")]
    assert None not in waits
    assert waits == sorted(waits)  # type: ignore[type-var]


def test_a_cell_that_cannot_be_saved_is_waited_for() -> None:
    assert at(1000.0, DURING, mid_cell=False) is None
    assert at(1000.0, mid_cell=False) == QUIET


TIMES = st.floats(0, 1e6)
SITUATIONS = st.builds(
    lambda now, since, cost, busy, changed, active, tier: Situation(
        now=now,
        last=now - since,
        cost=cost,
        busy=busy,
        changed=None if changed is None else now - changed,
        active=now - active,
        tier=tier,
    ),
    now=TIMES,
    since=TIMES,
    cost=st.floats(0.001, 100),
    busy=st.booleans(),
    changed=st.none() | TIMES,
    active=TIMES,
    tier=st.sampled_from(tuple(MEAN_TIME_BETWEEN_FAILURES)),
)


def wait(situation: Situation) -> float:
    seconds = due(situation)
    return float("inf") if seconds is None else seconds


@given(SITUATIONS)
def test_it_is_never_due_in_the_past(situation: Situation) -> None:
    assert wait(situation) >= 0


@given(SITUATIONS, st.floats(0, 1e5))
def test_time_that_passes_brings_it_nearer_by_as_much(situation: Situation, later: float) -> None:
    after = wait(replace(situation, now=situation.now + later))
    assert after == pytest.approx(max(0.0, wait(situation) - later), abs=1e-3)


@given(SITUATIONS, st.floats(1, 100))
def test_a_dearer_checkpoint_is_never_due_earlier(situation: Situation, factor: float) -> None:
    dearer = replace(situation, cost=situation.cost * factor)
    assert wait(dearer) >= wait(situation) - 1e-3


@given(SITUATIONS, st.floats(0, 1e5))
def test_a_later_request_never_makes_it_earlier(situation: Situation, later: float) -> None:
    active = min(situation.active + later, situation.now)
    assert wait(replace(situation, active=active)) >= wait(situation)


@given(SITUATIONS)
def test_after_waiting_as_told_it_is_due(situation: Situation) -> None:
    seconds = wait(situation)
    if seconds < float("inf"):
        assert wait(replace(situation, now=situation.now + seconds)) <= 1e-3
