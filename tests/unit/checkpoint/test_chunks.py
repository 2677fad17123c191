from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.blobs import Memory
from checkpoint.chunks import MAX_CHUNK, SEALED_OVERHEAD, chunk_id, seal, unseal
from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.keys import SessionKeys
from checkpoint.packs import PackRef, decode_index, encode_pack, pack_id, tail_size
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)


def _sealed(data: bytes) -> tuple[bytes, bytes]:
    name = chunk_id(KEYS, data)
    return name, seal(KEYS, name, data)


@settings(deadline=None)
@given(st.binary(max_size=300).flatmap(lambda unit: st.integers(0, 200).map(lambda n: unit * n)))
def test_chunk_opens_as_it_was_sealed(data: bytes) -> None:
    name, sealed = _sealed(data)
    assert unseal(KEYS, name, sealed, "it") == data


def test_compressible_data_shrinks_and_random_data_does_not_grow() -> None:
    text = b"".join(b"line %d of a text\n" % number for number in range(20_000))
    assert len(_sealed(text)[1]) < len(text) / 3
    noise = os.urandom(MAX_CHUNK)
    assert len(_sealed(noise)[1]) == len(noise) + SEALED_OVERHEAD


def test_content_is_not_readable_in_the_store() -> None:
    assert b"secret" not in _sealed(b"secret" * 1)[1]


def test_every_flipped_bit_of_a_chunk_is_found() -> None:
    name, sealed = _sealed(b"some content" * 10)
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, UnknownFormat), match="Chunk 12"):
            unseal(KEYS, name, damaged, "Chunk 12")
    for end in range(len(sealed)):
        with pytest.raises(Damaged):
            unseal(KEYS, name, sealed[:end], "Chunk 12")


def test_chunk_cannot_stand_in_for_another() -> None:
    name, _ = _sealed(b"one")
    _, other = _sealed(b"two")
    with pytest.raises(Damaged):
        unseal(KEYS, name, other, "it")


def test_too_large_a_chunk_is_refused() -> None:
    with Writer(Memory(), KEYS) as writer, pytest.raises(ValueError, match="at most"):
        writer.add(bytes(MAX_CHUNK + 1))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_pack_index_says_where_every_chunk_is(contents: list[bytes]) -> None:
    chunks = [(*_sealed(data), len(data)) for data in contents]
    ref, entries, data = encode_pack(KEYS, chunks)
    assert ref.size == len(data)
    assert ref.id == pack_id(KEYS, data)
    assert decode_index(KEYS, ref, data[-tail_size(ref) :]) == entries
    for entry, content in zip(entries, contents, strict=True):
        sealed = data[entry.offset : entry.offset + entry.length]
        assert unseal(KEYS, entry.id, sealed, "it") == content


def test_every_flipped_bit_of_a_pack_index_is_found() -> None:
    ref, _, data = encode_pack(KEYS, [(*_sealed(b"x"), 1)])
    tail = data[-tail_size(ref) :]
    for bit in range(len(tail) * 8):
        damaged = bytearray(tail)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, UnknownFormat), match=ref.id.hex()):
            decode_index(KEYS, ref, bytes(damaged))


def test_index_of_another_pack_is_refused() -> None:
    ref, _, data = encode_pack(KEYS, [(*_sealed(b"x"), 1)])
    wrong = PackRef(ref.id, ref.size + 1, ref.index_size)
    with pytest.raises(Damaged, match="do not add up"):
        decode_index(KEYS, wrong, data[-tail_size(ref) :])
