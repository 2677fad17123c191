"""What nobody waits for is done when a processor has time for it."""

from __future__ import annotations

import asyncio

import pytest

from sessionkeeper.agent import processors


@pytest.mark.parametrize(
    ("idle", "rests"),
    [
        (0.0, False),  # all of them work
        (0.1, False),  # a cell prints, and what it prints goes through every hop
        (0.19, True),  # one cell computes, on one of two
        (0.8, True),
        (None, True),  # no Linux
    ],
)
def test_a_processor_that_did_little_for_a_moment_rests(idle: float | None, rests: bool) -> None:
    now = None if idle is None else 100.0 + idle
    assert processors.one_rests(100.0, now, 0.2) is rests


async def test_on_a_machine_that_never_rests_it_is_done_all_the_same() -> None:
    async with asyncio.timeout(20):
        await processors.rest(patience=0.5)


def test_processors_tell_how_long_they_were_idle() -> None:
    idle = processors.idle_seconds()
    assert idle is not None
    assert idle > 0
