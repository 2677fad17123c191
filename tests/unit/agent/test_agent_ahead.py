"""What is stored ahead of a cut is left out of the dump, as long as that is safe."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.blobs import Memory
from checkpoint.criu import Image
from checkpoint.errors import StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.writer import Writer
from sessionkeeper.agent import ahead as module
from sessionkeeper.agent.ahead import PRECOPY_ABOVE, Ahead
from sessionkeeper.agent.place import Slot

SLOT = Slot("one-1", 1)
KERNEL: Any = SimpleNamespace(kernel_id="one", slot=SLOT)


class Place:
    """The kernel is this very process; ``size`` is what its memory is taken for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def processes(self, slot: Slot) -> list[int]:
        return [os.getpid()]

    def dump_size(self, slots: list[Slot]) -> int:
        return self.size


def nothing(kernel_id: str) -> Image | None:
    return None


def prepared(
    directory: Path, place: Any, ahead: Ahead | None = None, hurried: bool = False
) -> Ahead:
    ahead = ahead or Ahead(directory)
    with Writer(Memory(), SessionKeys.generate()) as writer:
        ahead.prepare(place, writer, [KERNEL], nothing, hurried)
    return ahead


def test_what_is_new_of_a_large_kernel_is_not_brought(tmp_path: Path) -> None:
    data = bytearray(random.Random(1).randbytes(16 << 20))
    place: Any = Place(PRECOPY_ABOVE)
    known, _ = prepared(tmp_path, place).for_dump(place, SLOT)
    assert known is not None
    assert known.image.size >= len(data)


def test_files_opened_since_make_all_of_it_be_brought(tmp_path: Path) -> None:
    data = bytearray(random.Random(1).randbytes(16 << 20))
    place: Any = Place(PRECOPY_ABOVE)
    ahead = prepared(tmp_path, place)
    with (tmp_path / "opened").open("w"):
        assert ahead.for_dump(place, SLOT)[0] is None
    assert len(data) == 16 << 20


def test_store_that_fails_once_fails_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(random.Random(1).randbytes(40 << 20))  # more than one pack
    place: Any = Place(PRECOPY_ABOVE)
    store = Memory()

    def away(key: str, data: object) -> None:
        raise StoreUnavailable("the store is away")

    with Writer(store, SessionKeys.generate()) as writer:
        with monkeypatch.context() as now:
            now.setattr(store, "create", away)
            with pytest.raises(StoreUnavailable):
                Ahead(tmp_path).prepare(place, writer, [KERNEL], nothing)
        writer.add(data[:100])
        assert writer.finish()


def test_a_small_kernel_is_not_read_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(module.criu, "precopy", never)
    place: Any = Place(PRECOPY_ABOVE - 1)
    assert prepared(tmp_path, place).for_dump(place, SLOT)[0] is None


def test_at_a_deadline_nothing_is_sent_that_may_change_again(tmp_path: Path) -> None:
    place: Any = Place(PRECOPY_ABOVE)
    assert prepared(tmp_path, place, hurried=True).for_dump(place, SLOT)[0] is None


def test_a_kernel_that_cannot_be_dumped_is_not_stored_each_time_that_is_tried(
    tmp_path: Path,
) -> None:
    place: Any = Place(PRECOPY_ABOVE)
    ahead = prepared(tmp_path, place)
    assert ahead.for_dump(place, SLOT)[0] is not None
    assert prepared(tmp_path, place, ahead).for_dump(place, SLOT)[0] is None
    ahead.brought({})
    assert prepared(tmp_path, place, ahead).for_dump(place, SLOT)[0] is not None


def test_what_was_made_ready_is_given_back(tmp_path: Path) -> None:
    place: Any = Place(PRECOPY_ABOVE - 1)
    ahead = prepared(tmp_path, place)
    assert ahead.for_dump(place, SLOT)[1] is not None
    ahead.release()
    assert ahead.for_dump(place, SLOT) == (None, None)
    assert list(tmp_path.iterdir()) == []
