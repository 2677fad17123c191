"""A slow line, and how old a checkpoint is behind it."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from sessionkeeper.bench.line import Line, Wire
from sessionkeeper.bench.uplink import Ages


class World:
    """A clock, what is to happen, and what has arrived."""

    def __init__(self, line: Line) -> None:
        self.now = 0.0
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.orders = itertools.count()
        self.arrived: list[tuple[float, bytes]] = []
        self.wire = Wire(
            line,
            lambda frame: self.arrived.append((round(self.now, 6), frame)),
            lambda: self.now,
            lambda at, what: heapq.heappush(self.due, (at, next(self.orders), what)),
        )

    def run(self) -> None:
        while self.due:
            self.now, _, what = heapq.heappop(self.due)
            what()


def test_frames_wait_their_turn_and_then_for_as_long_as_the_line_is_long() -> None:
    world = World(Line(rate=1000, delay=0.04, loss=0))
    for frame in (b"a" * 100, b"b" * 100):
        world.wire.carry(frame)
    world.run()
    assert world.arrived == [(0.14, b"a" * 100), (0.24, b"b" * 100)]
    world.now = 5.0
    world.wire.carry(b"c" * 10)  # the line was free
    world.run()
    assert world.arrived[-1] == (5.05, b"c" * 10)


def test_so_many_get_lost_and_the_same_each_time() -> None:
    worlds = [World(Line(rate=1e9, delay=0, loss=0.01, queue=10**6)) for _ in range(2)]
    for world in worlds:
        for number in range(10_000):
            world.wire.carry(number.to_bytes(2, "big"))
        world.run()
    assert 50 < 10_000 - len(worlds[0].arrived) < 150
    assert [f for _, f in worlds[0].arrived] == [f for _, f in worlds[1].arrived]


def test_what_finds_the_queue_full_is_lost() -> None:
    world = World(Line(rate=1000, delay=0, loss=0, queue=3))
    for number in range(5):
        world.wire.carry(bytes([number]))
    world.run()
    assert [frame for _, frame in world.arrived] == [b"\0", b"\1", b"\2"]


def status(number: int, *, making: bool = False) -> dict[str, Any]:
    return {"checkpointing": making, "checkpoint": {"number": number}}


def test_age_counts_from_the_moment_that_the_checkpoint_contains() -> None:
    ages = Ages()
    ages.feed(0.0, status(1))
    ages.coverage.covered = 0.0
    ages.sample(1.0, worked=0.0)  # nothing has happened since
    ages.sample(3.0, worked=2.0)
    ages.feed(4.0, status(1, making=True))
    ages.sample(6.0, worked=5.0)
    ages.feed(7.0, status(2))
    ages.sample(8.0, worked=5.0)  # contains what was at 4
    assert ages.found == [0.0, 3.0, 6.0, 4.0]
    assert ages.p95() == pytest.approx(6.0)
