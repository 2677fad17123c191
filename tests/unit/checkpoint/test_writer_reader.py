from __future__ import annotations

import itertools
import os
import random
import threading

import pytest
from faulty_stores import CountingStore, DyingStore
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.blobs import Memory
from checkpoint.chunks import MAX_CHUNK
from checkpoint.errors import Damaged, StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.objects import load_list, load_object, store_list, store_object
from checkpoint.packs import PACK_TARGET, PackRef
from checkpoint.reader import Reader
from checkpoint.writer import Writer, choose_rewrites

KEYS = SessionKeys(b"k" * 32)


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _checkpoint(writer: Writer, contents: list[bytes]) -> tuple[list[bytes], tuple[PackRef, ...]]:
    return [writer.add(data) for data in contents], writer.finish()


def test_chunks_read_as_they_were_added_in_any_order() -> None:
    store = Memory()
    contents = [_noise(i, 1000 * (i % 300)) for i in range(600)]
    with Writer(store, KEYS) as writer:
        names = [writer.add(data) for data in contents]
        packs = writer.finish()
    order = list(range(len(names))) * 2
    random.Random(1).shuffle(order)
    with Reader(store, KEYS, packs) as reader:
        for at, data in zip(order, reader.read(names[at] for at in order), strict=True):
            assert data == contents[at]
        seen: dict[bytes, bytes] = {}
        lock = threading.Lock()

        def take(name: bytes, data: bytes) -> None:
            with lock:
                assert name not in seen
                seen[name] = data

        reader.each(names, take)
        assert seen == dict(zip(names, contents, strict=True))


def test_same_content_is_stored_once_also_in_the_next_checkpoint_and_by_the_next_writer() -> None:
    store = CountingStore()
    content = _noise(1, MAX_CHUNK)
    with Writer(store, KEYS) as writer:
        name = writer.add(content)
        assert writer.add(content) == name
        packs = writer.finish()
        assert len(packs) == 1
        assert len(content) < packs[0].size < len(content) + 300
        assert writer.add(content) == name
        assert writer.finish() == packs
    with Writer(store, KEYS, packs) as writer:
        assert writer.add(content) == name
        assert writer.finish() == packs
    assert len(store.created) == 1


def test_packs_are_of_moderate_size_and_few_requests_read_them() -> None:
    store = CountingStore()
    with Writer(store, KEYS) as writer:
        names = [writer.add(_noise(i, 1 << 18)) for i in range(160)]  # 40 MiB
        packs = writer.finish()
    assert len(packs) == 5
    assert all(ref.size < PACK_TARGET + (1 << 19) for ref in packs)
    store.read.clear()
    with Reader(store, KEYS, packs) as reader:
        assert len(store.read) == len(packs)  # an index each
        assert sum(size for _, size in store.read) < 20_000
        reader.each(names, lambda name, data: None)
    assert len(store.read) <= len(packs) * 4


def test_chunk_that_is_not_held_cannot_be_kept() -> None:
    with Writer(Memory(), KEYS) as writer:
        assert not writer.holds([b"?" * 32])
        with pytest.raises(ValueError, match=(b"?" * 32).hex()):
            writer.keep([b"?" * 32])


def test_only_packs_with_live_chunks_are_named() -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        old = writer.add(b"old")
        first = writer.finish()
        kept = writer.add(b"kept")
        writer.keep([old])
        both = writer.finish()
        assert len(both) == 2
        writer.keep([kept])
        assert writer.finish() == tuple(set(both) - set(first))
        assert not writer.holds([old])


def test_packs_that_are_mostly_waste_are_replaced() -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        names = [writer.add(_noise(i, 1 << 18)) for i in range(160)]
        writer.finish()
        live = names[::8]
        writer.keep(live)
        packs = writer.finish()
        size = sum(ref.size for ref in packs)
        assert size < 2 * len(live) * (1 << 18) + (10 << 20)
        writer.keep(live)
        assert writer.finish() == packs  # and then they stay
    with Reader(store, KEYS, packs) as reader:
        assert list(reader.read(live)) == [_noise(i, 1 << 18) for i in range(0, 160, 8)]


def test_many_small_packs_become_few() -> None:
    store = Memory()
    names: list[bytes] = []
    with Writer(store, KEYS) as writer:
        for number in range(200):
            writer.keep(names)
            names.append(writer.add(b"checkpoint %d" % number))
            packs = writer.finish()
    assert len(packs) <= 66
    with Reader(store, KEYS, packs) as reader:
        assert list(reader.read(names)) == [b"checkpoint %d" % number for number in range(200)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20 << 20), st.floats(0.001, 1)), max_size=200))
def test_rewriting_is_bounded_and_waste_too_unless_that_is_reached(
    packs: list[tuple[int, float]],
) -> None:
    live = {
        PackRef(number.to_bytes(16, "big"), size, 1): max(1, int(size * share))
        for number, (size, share) in enumerate(packs)
    }
    chosen = choose_rewrites(live)
    rewritten = sum(live[ref] for ref in chosen)
    assert rewritten <= 64 << 20
    waste = sum(ref.size - live[ref] for ref in live if ref not in chosen)
    if rewritten <= 40 << 20:
        assert waste <= sum(live.values()) + (8 << 20)


def test_damage_is_found_and_named_with_pack_and_chunk() -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        name = writer.add(b"content" * 100)
        [ref] = packs = writer.finish()
    whole = store.objects[ref.key]
    store.objects[ref.key] = whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]
    with Reader(store, KEYS, packs) as reader:
        for read in (reader.one, lambda name: reader.each([name], lambda *_: None)):
            with pytest.raises(Damaged, match=f"{name.hex()}.*{ref.id.hex()}"):
                read(name)
        store.objects[ref.key] = whole[:30]
        with pytest.raises(Damaged, match=rf"Pack {ref.id.hex()} .*cut short"):
            list(reader.read([name]))
        del store.objects[ref.key]
        with pytest.raises(Damaged, match=rf"Pack {ref.id.hex()} .*missing"):
            reader.one(name)
        with pytest.raises(Damaged, match="no pack"):
            reader.one(b"?" * 32)
    with pytest.raises(Damaged, match=ref.id.hex()):
        Reader(store, KEYS, packs)


def test_failure_of_a_consumer_ends_the_reading() -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        names = [writer.add(_noise(i, 1 << 18)) for i in range(64)]
        packs = writer.finish()

    def fail(name: bytes, data: bytes) -> None:
        raise ZeroDivisionError

    with Reader(store, KEYS, packs) as reader:
        with pytest.raises(ZeroDivisionError):
            reader.each(names, fail)
        assert reader.one(names[0]) == _noise(0, 1 << 18)


def test_writer_goes_on_after_a_failure_and_does_not_write_again_what_arrived() -> None:
    store = Memory()
    dying = DyingStore(store, 2)
    contents = [_noise(i, 1 << 20) for i in range(40)]
    with Writer(dying, KEYS) as writer:
        with pytest.raises(StoreUnavailable):
            _checkpoint(writer, contents)
        writer.abort()
        assert len(store.objects) == 2
        dying.left = 1000
        names, packs = _checkpoint(writer, contents)
    assert sum(ref.size for ref in packs) < 42 << 20
    assert set(store.objects) == {ref.key for ref in packs}
    with Reader(store, KEYS, packs) as reader:
        assert list(reader.read(names)) == contents


def _add_forever(writer: Writer) -> None:
    for number in itertools.count():
        writer.add(_noise(1000 + number, 1 << 20))


def test_checkpoint_after_a_failure_is_whole_or_refused_though_nobody_called_abort() -> None:
    store = Memory()
    dying = DyingStore(store, 0)
    contents = [_noise(i, 1 << 20) for i in range(20)]
    with Writer(dying, KEYS) as writer:
        with pytest.raises(StoreUnavailable):
            _add_forever(writer)
        dying.left = 1000
        with pytest.raises(StoreUnavailable):
            _checkpoint(writer, contents[10:])
        names, packs = _checkpoint(writer, contents)
    with Reader(store, KEYS, packs) as reader:
        assert list(reader.read(names)) == contents


def test_memory_in_flight_is_bounded() -> None:
    class Slow(Memory):
        """Holds every upload until `limit` bytes wait, which must not happen."""

        def __init__(self) -> None:
            super().__init__()
            self.go = threading.Event()
            self.entered = threading.Semaphore(0)

        def create(self, key: str, data: object) -> None:
            self.entered.release()
            assert self.go.wait(30)

    store = Slow()
    added = 0
    with Writer(store, KEYS) as writer:

        def add() -> None:
            nonlocal added
            for _ in range(100):
                writer.add(os.urandom(1 << 20))
                added += 1

        thread = threading.Thread(target=add)
        thread.start()
        for _ in range(3):
            assert store.entered.acquire(timeout=30)
        thread.join(0.3)
        assert thread.is_alive()
        assert added < 40
        store.go.set()
        thread.join()
        assert added == 100


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3_000_000), st.integers(0, 5))
def test_object_of_any_length_reads_as_it_was_stored(size: int, seed: int) -> None:
    store = Memory()
    data = _noise(seed, size)
    with Writer(store, KEYS) as writer:
        stored = store_object(writer, data)
        writer.finish()
        writer.keep(stored.chunks)
        packs = writer.finish()
    with Reader(store, KEYS, packs) as reader:
        assert load_object(reader, stored.id) == data


def test_long_list_with_a_new_end_shares_its_chunks() -> None:
    store = Memory()
    names = [number.to_bytes(32, "big") for number in range(5000)]
    with Writer(store, KEYS) as writer:
        first = store_list(writer, names)
        second = store_list(writer, [*names, b"x" * 32])
        assert len(set(second.chunks) - set(first.chunks)) == 2
        empty = store_list(writer, [])
        packs = writer.finish()
    with Reader(store, KEYS, packs) as reader:
        assert load_list(reader, first.id) == names
        assert load_list(reader, second.id) == [*names, b"x" * 32]
        assert load_list(reader, empty.id) == []
