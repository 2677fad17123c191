"""A client that reads slowly, or not at all: what it costs, and whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_shown_once import Scene

from gateway import room
from gateway.feed import WINDOW, Delivery, Feed

TEXT = "x" * 10_000


class Tab:
    """A client that takes what it is sent when the test says so."""

    def __init__(self, scene: Scene) -> None:
        self.got: list[int] = []
        self.missed = 0
        self.open: list[tuple[asyncio.Future[None], int]] = []
        self.feed = Feed(scene.channel.outlet, self.write, "tab", 0, lambda: None, self.miss)
        scene.channel.outlet.attach(self.feed)

    def write(self, delivery: Delivery) -> tuple[asyncio.Future[None], int]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got.append(delivery.cursor)
        self.open.append((written, len(delivery.payload)))
        return written, len(delivery.payload)

    def miss(self, count: int) -> None:
        self.missed = count

    async def read(self) -> None:
        """Take all that is on its way, and what follows from that."""
        while self.open:
            waiting, self.open = self.open, []
            for written, _ in waiting:
                written.set_result(None)
            await asyncio.sleep(0)

    @property
    def on_its_way(self) -> int:
        return sum(size for _, size in self.open)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    outputs = made.channel.journal.outputs
    outputs._keep, outputs._log.segment_size = 6_000_000, 500_000
    return made


async def until_it_waits(scene: Scene) -> int:
    """The kernel prints as long as the gateway takes it; so many times."""
    for count in range(1, 10_000):
        scene.prints("a", TEXT)
        if scene.shim.unacked_bytes > 1_000_000:
            return count
    raise AssertionError("the gateway takes everything")


async def test_tab_that_stops_reading_costs_a_window_of_memory_and_a_bounded_disk(
    scene: Scene,
) -> None:
    scene.ask("a")
    tab = Tab(scene)
    await until_it_waits(scene)
    assert tab.on_its_way < WINDOW + 2 * len(TEXT)
    size = sum(file.stat().st_size for file in scene.folder.glob("outputs-*"))
    assert 24_000_000 <= size < 27_000_000
    shim = scene.shim.unacked_bytes
    scene.prints("a", TEXT)
    assert scene.shim.unacked_bytes > shim  # not acknowledged: the kernel is held back


async def test_kernel_goes_on_when_the_slow_tab_has_read_and_it_gets_all_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK", 0.001)
    scene.ask("a")
    tab = Tab(scene)
    await until_it_waits(scene)
    while scene.shim.unacked_bytes:
        await tab.read()
        await asyncio.sleep(0.001)
        scene.settle()
    scene.prints("a", "the end")
    await tab.read()
    assert tab.missed == 0
    assert tab.got == list(range(1, scene.channel.outlet.last_cursor + 1))


async def test_tab_that_never_reads_is_left_behind_and_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK", 0.001)
    monkeypatch.setattr(room, "PATIENCE", 0.02)
    scene.ask("a")
    tab = Tab(scene)
    await until_it_waits(scene)
    async with asyncio.timeout(5):
        while scene.shim.unacked_bytes:
            await asyncio.sleep(0.001)
            scene.settle()
    for _ in range(3000):  # nobody waits for it any more
        scene.prints("a", TEXT)
    assert scene.shim.unacked_bytes < 1_000_000
    await tab.read()
    assert tab.missed > 0
    assert len(tab.got) + tab.missed == scene.channel.outlet.last_cursor
    assert tab.got[-1] == scene.channel.outlet.last_cursor


async def test_what_cannot_be_put_for_one_client_hurts_nobody_else(scene: Scene) -> None:
    """An error while a message is made ready would end the connection of the kernel's node."""

    def fails(delivery: Delivery) -> tuple[asyncio.Future[None], int] | None:
        if b"bad" in bytes(delivery.payload):
            raise ValueError("not in this protocol")
        got.append(delivery.cursor)
        return None

    got: list[int] = []
    scene.channel.outlet.attach(Feed(scene.channel.outlet, fails, "tab", 0, lambda: None))
    scene.prints("a", "good")
    scene.prints("a", "bad")
    scene.prints("a", "good")
    last = scene.channel.outlet.last_cursor
    assert got == [last - 2, last]
    assert [content["text"] for _, _, content in scene.shown] == ["good", "bad", "good"]
