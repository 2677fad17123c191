"""A message that takes long to write: written beside everything else, in its place, once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from test_shown_once import Scene

from gateway import channel as channels
from gateway.errors import JournalFull
from gateway.journal import Journal, OutputLog, Prepared

LARGE = "x" * 200_000


class Disk:
    """A disk that is as slow as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may = threading.Event()
        self.full = False
        self.asked = 0
        prepare = OutputLog.prepare

        def slow(
            log: OutputLog, payload: memoryview, stamp: tuple[int, int], applied: int
        ) -> Prepared:
            self.asked += 1
            self.may.wait(10)
            if self.full:
                raise JournalFull("The journal cannot be written: no space.")
            return prepare(log, payload, stamp, applied)

        monkeypatch.setattr(OutputLog, "prepare", slow)
        monkeypatch.setattr(channels, "LARGE", 100_000)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def written(scene: Scene) -> None:
    async with asyncio.timeout(10):
        while scene.channel._large._writing is not None:
            await asyncio.sleep(0.001)
    scene.settle()


async def test_loop_goes_on_while_it_is_written_and_the_order_is_kept(
    scene: Scene, disk: Disk
) -> None:
    scene.ask("a")
    scene.prints("a", "before")
    scene.prints("a", LARGE)
    scene.prints("a", "after")
    assert scene.below("a") == "before"
    scene.channel.outlet.say(3, "stream", {"name": "stdout", "text": "said meanwhile"})
    disk.may.set()
    await written(scene)
    await written(scene)
    assert scene.below("a") == f"before{LARGE}after"
    assert scene.shim.unacked_bytes == 0
    scene.channel.close(deleted=False)
    again = Journal(scene.folder)
    list(again.inputs.recover())
    cursors = [record.cursor for record in again.outputs.recover()]
    assert cursors == list(range(1, len(cursors) + 1))
    sizes = [len(record.payload) for record in again.outputs.read(1)]
    assert sum(size > len(LARGE) for size in sizes) == 1
    again.close()


async def test_node_that_is_lost_meanwhile_is_not_heard(scene: Scene, disk: Disk) -> None:
    scene.ask("a")
    scene.prints("a", LARGE)
    scene.channel.detach_node()
    disk.may.set()
    await written(scene)
    assert scene.below("a") == ""
    assert list(scene.folder.glob("*.large")) == []
    scene.attach()
    await written(scene)
    assert scene.below("a") == LARGE


async def test_full_disk_is_tried_again(scene: Scene, disk: Disk) -> None:
    disk.full = True
    disk.may.set()
    scene.ask("a")
    scene.prints("a", LARGE)
    await written(scene)
    assert scene.below("a") == ""
    disk.full = False
    async with asyncio.timeout(5):
        while scene.below("a") != LARGE:
            scene.settle()
            await asyncio.sleep(0.01)


async def test_gateway_killed_while_it_is_written_leaves_nothing_of_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    list(journal.outputs.recover())
    journal.outputs.append(b"whole")
    journal.outputs.prepare(b"half")
    journal.close()
    again = Journal(tmp_path)
    assert [record.payload for record in again.outputs.recover()] == [b"whole"]
    assert list(tmp_path.glob("*.large")) == []
    again.close()
