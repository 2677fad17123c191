"""How long an interrupt waits for a kernel that has only just become busy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gateway.interrupts import SETTLED, settling


def test_kernel_that_was_just_heard_of_is_given_a_moment_and_no_other() -> None:
    now = datetime.now(UTC)
    assert 0 < settling(now) <= SETTLED
    assert settling(now - timedelta(seconds=SETTLED)) == 0


def test_clock_that_was_put_back_holds_no_interrupt_back() -> None:
    assert settling(datetime.now(UTC) + timedelta(hours=1)) == SETTLED
