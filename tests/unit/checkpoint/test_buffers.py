"""Memory that is used again for what is stored."""

from __future__ import annotations

import random

from checkpoint.blobs import Memory
from checkpoint.buffers import Buffers
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
MB = 1 << 20


def test_memory_that_was_given_back_is_taken_again_also_for_a_little_less() -> None:
    buffers = Buffers(MB)
    first = buffers.take(100_000)
    assert len(first) == 100_000
    assert buffers.take(100_000).obj is not first.obj
    buffers.give(first)
    again = buffers.take(99_000)
    assert (again.obj is first.obj, len(again)) == (True, 99_000)


def test_no_more_memory_is_kept_than_was_said() -> None:
    buffers = Buffers(MB)
    taken = [buffers.take(MB // 2) for _ in range(3)]
    for one in taken:
        buffers.give(one)
    again = [buffers.take(MB // 2).obj for _ in range(3)]
    assert sum(any(one.obj is other for other in again) for one in taken) == 2
    buffers.give(taken[0])
    buffers.clear()
    assert buffers.take(MB // 2).obj is not taken[0].obj


def test_little_takes_no_more_memory_than_it_needs() -> None:
    """A small chunk may wait for thousands of others until its pack is full."""
    one = Buffers(MB).take(1000)
    assert isinstance(one.obj, bytearray)
    assert len(one.obj) == 1000


def test_what_was_sealed_in_memory_of_other_chunks_is_what_was_added() -> None:
    noise = random.Random(1)
    sizes = [noise.choice((9_000, 128 << 10, 256 << 10, 300_000)) for _ in range(300)]
    contents = [noise.randbytes(size) for size in sizes]
    store = Memory()
    with Writer(store, KEYS) as writer:
        names = [writer.add(content) for content in contents]
        packs = writer.finish()
        assert len(packs) > 4  # more than are on their way at once
    with Reader(store, KEYS, packs) as reader:
        assert list(reader.read(names)) == contents
