"""Room for a dump: had before, given back in time, refused with words when there is too little."""

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
