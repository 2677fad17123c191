"""A pack whose index cannot be read gives back what is in it."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_sessions import KEYS, body, checkpoint, commit, opened

from checkpoint.blobs import Memory
from checkpoint.chunks import MAX_CHUNK, chunk_id, seal
from checkpoint.fsck import check
from checkpoint.keys import NONCE_BYTES
from checkpoint.packs import Entry, PackRef, encode_pack, tail_size
from checkpoint.repair import rebuild, repair
from checkpoint.repository import Repository
from checkpoint.salvage import as_it_was, is_whole, salvage

NOISE = random.Random(5)


def pack(*contents: bytes) -> tuple[PackRef, list[Entry], bytes]:
    names = [chunk_id(KEYS, content) for content in contents]
    sealed = [seal(KEYS, name, content) for name, content in zip(names, contents, strict=True)]
    sizes = map(len, contents)
    ref, entries, data = encode_pack(KEYS, list(zip(names, sealed, sizes, strict=True)))
    return ref, entries, bytes(data)


CONTENTS = (
    b"",
    b"x",
    b"text that shrinks, " * 5000,
    NOISE.randbytes(100),
    NOISE.randbytes(300_000),
    bytes(MAX_CHUNK),
    NOISE.randbytes(MAX_CHUNK),
    b"\x01\x00\x01\x01" * 3,
    NOISE.randbytes(1) + b"\x01\x00" * 50,
    b"last",
)


def test_every_chunk_is_found_without_the_index() -> None:
    ref, entries, data = pack(*CONTENTS)
    body_size = ref.size - tail_size(ref)
    found = salvage(KEYS, ref, data[:body_size] + bytes(tail_size(ref)))
    assert found == entries
    assert is_whole(ref, found)
    assert salvage(KEYS, ref, data[:body_size]) == entries


@settings(max_examples=40, deadline=None)
@example([b"", b"", b"zero"], 30, 0)
@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=8),
    st.integers(0, 10**6),
    st.integers(0, 7),
)
def test_damage_costs_the_chunk_it_is_in_or_whose_end_it_hides_and_nothing_is_made_up(
    contents: list[bytes], place: int, bit: int
) -> None:
    ref, entries, data = pack(*contents)
    damaged = bytearray(data)
    at = place % (ref.size - tail_size(ref))
    damaged[at] ^= 1 << bit
    found = salvage(KEYS, ref, bytes(damaged))
    lost = {e for e in entries if e.offset <= at < e.offset + e.length}
    hidden = {e for e in entries if 0 <= at - (e.offset + e.length) < 2}
    assert set(found) | hidden == set(entries) - lost
    assert found == sorted(found, key=lambda e: e.offset)
    assert not is_whole(ref, found)


def damage(store: Memory, ref: PackRef, at: int, whole: bytes) -> None:
    damaged = bytearray(whole)
    damaged[at] ^= 1
    store.put(f"sessions/one/{ref.key}", bytes(damaged))


@pytest.fixture
def session() -> tuple[Memory, Repository, PackRef, bytes]:
    store = Memory()
    repository = opened(store)
    manifest = checkpoint(repository, b"text " * 3000, NOISE.randbytes(50_000), b"root")
    [ref] = manifest.packs
    return store, repository, ref, store.get(f"sessions/one/{ref.key}")


def test_index_and_footer_are_made_anew_byte_for_byte(
    session: tuple[Memory, Repository, PackRef, bytes],
) -> None:
    store, repository, ref, whole = session
    tail = ref.size - tail_size(ref)
    for at in (tail + NONCE_BYTES, tail + 20, ref.size - 17, ref.size - 16, ref.size - 1):
        damage(store, ref, at, whole)
        report = check(repository)
        [finding] = report.findings
        assert f"of {tail} bytes of chunks {tail} can be read without its index" in finding.why
        assert [one.source for one in repair(repository, report)] == ["the chunks in it"]
        assert store.get(f"sessions/one/{ref.key}") == whole
        assert check(repository).intact
    store.put(f"sessions/one/{ref.key}", whole[: tail + NONCE_BYTES])
    assert repair(repository, check(repository))
    assert check(repository).intact


@pytest.mark.parametrize("left", [0, NONCE_BYTES - 1])
def test_pack_without_any_of_its_index_is_made_anew_as_another_checkpoint(
    session: tuple[Memory, Repository, PackRef, bytes], left: int
) -> None:
    store, repository, ref, whole = session
    tail = ref.size - tail_size(ref)
    store.put(f"sessions/one/{ref.key}", whole[: tail + left])
    report = check(repository)
    assert repair(repository, report) == []
    made = rebuild(repository, report)
    assert made is not None
    assert ref not in made.packs
    repository.verify(made)
    repository.blobs.delete("manifests/00000001")
    assert check(repository).intact


def test_what_is_lost_beside_the_index_is_said_and_not_made_up(
    session: tuple[Memory, Repository, PackRef, bytes],
) -> None:
    store, repository, ref, whole = session
    tail = ref.size - tail_size(ref)
    store.put(f"sessions/one/{ref.key}", b"?" + whole[1:tail])
    report = check(repository)
    [finding] = report.findings
    assert finding.touches == {("one", 1)}
    assert f"of {tail} bytes of chunks " in finding.why
    assert f"bytes of chunks {tail} can" not in finding.why
    assert repair(repository, report) == []
    assert rebuild(repository, report) is None
    assert as_it_was(KEYS, ref, whole) is None  # of another key


def test_index_of_another_pack_is_not_taken(
    session: tuple[Memory, Repository, PackRef, bytes],
) -> None:
    store, repository, ref, whole = session
    with repository.writer(None) as writer:
        second = commit(repository, body(writer, b"other"))
    [other] = second.packs
    tail = ref.size - tail_size(ref)
    foreign = store.get(f"sessions/one/{other.key}")
    store.put(f"sessions/one/{ref.key}", whole[:tail] + foreign[-tail_size(other) :])
    report = check(repository)
    assert not report.intact
    assert repair(repository, report) == []
