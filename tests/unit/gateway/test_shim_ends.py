"""A kernel that dropped the end of its outputs is found out, in whatever order it speaks."""

from __future__ import annotations

import itertools

import pytest

from gateway.shim_ends import LOST_AFTER, Ends

SAID = {
    "busy": lambda ends: ends.begins("a", 0.0),
    "reply": lambda ends: ends.replied("a", 0.0),
    "idle": lambda ends: ends.ends("a"),
}


@pytest.mark.parametrize("order", list(itertools.permutations(["busy", "reply"])))
def test_an_idle_that_does_not_come_is_missed_in_any_order(order: tuple[str, ...]) -> None:
    ends = Ends()
    for said in order:
        SAID[said](ends)
    assert ends.next == LOST_AFTER
    assert ends.dropped(LOST_AFTER - 0.1) == []
    assert ends.dropped(LOST_AFTER) == ["a"]
    assert (ends.dropped(100.0), ends.busy, ends.next) == ([], set(), None)


@pytest.mark.parametrize(
    "order", [("busy", "idle", "reply"), ("busy", "reply", "idle"), ("reply", "busy", "idle")]
)
def test_one_that_comes_is_not_missed(order: tuple[str, ...]) -> None:
    ends = Ends()
    for said in order:
        SAID[said](ends)
    assert (ends.dropped(100.0), ends.busy) == ([], set())


def test_a_kernel_that_says_no_status_is_not_waited_for() -> None:
    ends = Ends()
    ends.replied("a", 0.0)
    assert ends.dropped(100.0) == []


def test_while_nothing_is_read_from_the_kernel_nothing_is_missing() -> None:
    ends = Ends()
    ends.begins("a", 0.0)
    ends.replied("a", 0.0)
    ends.wait(20.0)
    assert ends.dropped(20.0) == []
    assert ends.dropped(20.0 + LOST_AFTER) == ["a"]


def test_what_is_remembered_of_silent_kernels_is_bounded() -> None:
    ends = Ends()
    for number in range(10_000):
        ends.replied(str(number), 0.0)
    ends.begins("0", 0.0)
    assert ends.dropped(100.0) == []
