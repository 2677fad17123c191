"""Room for a dump: had before, given back in time, refused with words when there is too little."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessionkeeper.agent.errors import DumpFailed
from sessionkeeper.agent.mappings import own_memory
from sessionkeeper.agent.room import AHEAD, WORTH_IT, Room


def taken(directory: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in directory.iterdir())


def test_as_much_as_asked_for_is_really_taken_until_it_is_released(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.reserve(WORTH_IT + 12345)
    assert taken(tmp_path) >= WORTH_IT + 12345
    room.reserve(2 * WORTH_IT)  # in place of the first
    assert 2 * WORTH_IT <= taken(tmp_path) < 3 * WORTH_IT
    room.release()
    room.release()
    assert list(tmp_path.iterdir()) == []


def test_little_is_not_worth_it(tmp_path: Path) -> None:
    Room(tmp_path).reserve(WORTH_IT - 1)
    assert list(tmp_path.iterdir()) == []


def test_more_than_there_is_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(DumpFailed, match=r"have 1000000\.0 GB of memory, and there is room for"):
        Room(tmp_path).reserve(10**15)
    assert list(tmp_path.iterdir()) == []


def test_a_process_s_own_memory_grows_with_what_it_fills() -> None:
    before = own_memory(os.getpid())
    filled = bytearray(os.urandom(1 << 20) * 64)
    assert own_memory(os.getpid()) - before > len(filled) // 2
    assert own_memory(2**22 + 1) == 0  # there is no such process


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """One of its own, as a node has it: what else is written on the machine is not in it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(tmp_path)]
    subprocess.run(mount, check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


class Watched(Room):
    """Tells how often it has looked at what is free."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.looks = 0
        self.looked = threading.Condition()

    def _free(self) -> int:
        free = super()._free()
        with self.looked:
            self.looks += 1
            self.looked.notify_all()
        return free

    def look_again(self) -> None:
        """Until it has seen what is so now, and acted on it."""
        with self.looked:
            then = self.looks + 3  # one that had begun, one that sees it, one after it has acted
            assert self.looked.wait_for(lambda: self.looks >= then, 30)


@pytest.mark.container
def test_a_dump_gets_it_as_it_grows_and_nothing_stays(tmpfs: Path) -> None:
    room, dump = Watched(tmpfs), tmpfs / "dump"
    room.reserve(3 * AHEAD)
    with room.given():
        dump.write_bytes(bytes(AHEAD // 2))
        room.look_again()
        assert 1.9 * AHEAD < taken(tmpfs) < 2.1 * AHEAD  # the rest is still held
    assert list(tmpfs.iterdir()) == [dump]


def test_what_fails_leaves_nothing_held(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.reserve(2 * WORTH_IT)
    with pytest.raises(ZeroDivisionError), room.given():
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
