"""Several readers of one checkpoint ask a store once for what they all need."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.blobs import Memory, Metered, Remembering
from checkpoint.keys import MasterKey
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from checkpoint.stores.remembering import ROOM, SMALL, WHOLE


def test_the_second_reader_of_small_packs_asks_for_nothing() -> None:
    repository = Repository.open(Memory(), "s", MasterKey(bytes(32)))
    packs, names = [], []
    for _ in range(5):
        with repository.writer(None) as writer:
            names.append(writer.add(os.urandom(1000)))
            packs += writer.finish()
    asked = Metered(repository.blobs)
    store = Remembering(asked)
    for _ in range(3):
        with Reader(store, repository.keys, packs) as reader:
            assert len(list(reader.read(names))) == 5
    assert asked.figures()["get"].calls == 5
    store.forget()
    with Reader(store, repository.keys, packs) as reader:
        list(reader.read(names))
    assert asked.figures()["get"].calls > 5


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    inner = Memory()
    asked = Metered(inner)
    store = Remembering(asked)
    number = ROOM // WHOLE + 5
    for at in range(number):
        inner.put(f"packs/{at}", bytes(WHOLE))
    for _ in range(2):
        for at in range(number):
            assert store.get(f"packs/{at}", 0, WHOLE) == bytes(WHOLE)
    assert asked.figures()["get"].calls == number + 5


CONTENT = bytes(range(256)) * ((2 * WHOLE) // 256)
ranges = st.tuples(st.integers(0, len(CONTENT) + 10), st.integers(1, SMALL + 10))


@given(st.lists(ranges, max_size=30))
def test_every_part_is_what_the_store_has(parts: list[tuple[int, int]]) -> None:
    inner = Memory()
    inner.put("packs/a", CONTENT)
    store = Remembering(inner)
    for start, length in parts:
        assert store.get("packs/a", start, length) == CONTENT[start : start + length]
