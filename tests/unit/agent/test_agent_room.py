"""Room for a dump: had before, refused with words when there is too little."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sessionkeeper.agent.errors import DumpFailed
from sessionkeeper.agent.mappings import own_memory
from sessionkeeper.agent.room import WORTH_IT, Room


def taken(directory: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in directory.iterdir())


def test_as_much_as_asked_for_is_really_taken_until_it_is_released(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.reserve({"a": WORTH_IT + 12345})
    assert taken(tmp_path) >= WORTH_IT + 12345
    room.reserve({"a": WORTH_IT, "b": WORTH_IT + 1})  # in place of the first
    assert 2 * WORTH_IT <= taken(tmp_path) < 3 * WORTH_IT
    room.release()
    room.release()
    assert list(tmp_path.iterdir()) == []


def test_each_has_its_own_and_whoever_takes_it_keeps_it(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.reserve({"a": WORTH_IT + 5, "b": 3 * WORTH_IT, "c": 1})
    a, b = room.file("a"), room.file("b")
    assert a is not None
    assert b is not None
    assert (a.stat().st_size, b.stat().st_size) == (WORTH_IT + 5, 3 * WORTH_IT)
    assert room.file("c") is None  # so little is not worth it
    with a.open("rb") as mine:
        a.unlink()
        room.release()
        assert len(mine.read()) == WORTH_IT + 5
    assert list(tmp_path.iterdir()) == []


def test_more_than_there_is_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(DumpFailed, match=r"have 1,000,000,000 MB of memory, and there is room for"):
        Room(tmp_path).reserve({"a": 10**14, "b": 9 * 10**14})
    assert list(tmp_path.iterdir()) == []


def test_a_process_s_own_memory_grows_with_what_it_fills() -> None:
    before = own_memory(os.getpid())
    filled = bytearray(os.urandom(1 << 20) * 64)
    assert own_memory(os.getpid()) - before > len(filled) // 2
    assert own_memory(2**22 + 1) == 0  # there is no such process
