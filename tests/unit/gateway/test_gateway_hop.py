"""Idle connections of one machine are looked after at the same moments, and often enough."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.hop import PeerWatch, next_turn


def test_connections_that_began_at_different_moments_have_one_turn() -> None:
    chance = random.Random(1)
    turns = {next_turn(1000.1 + chance.random() * 1.7, 2.0) for _ in range(100)}
    assert turns == {1002.0}


@pytest.mark.parametrize("every", [1.0, 2.0, 2.2])
def test_each_has_its_turn_at_least_so_often_also_when_timers_come_early(every: float) -> None:
    chance = random.Random(2)
    now = 12345.678
    for _ in range(1000):
        due = next_turn(now, every)
        assert 0 < due - now <= every + 0.01
        now = due + chance.uniform(-0.009, 0.009)
        assert next_turn(now, every) - due == pytest.approx(every, abs=1e-6)


async def test_a_silent_peer_is_given_up() -> None:
    probed, dead = 0, asyncio.Event()

    def probe() -> None:
        nonlocal probed
        probed += 1

    watch = PeerWatch(probe, dead.set, every=0.1, silent=0.25)
    async with asyncio.timeout(10):
        await dead.wait()
    assert probed >= 2
    watch.close()
