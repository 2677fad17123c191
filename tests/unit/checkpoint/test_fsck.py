from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from small_sessions import (
    MASTER,
    assert_all_readable,
    body,
    checkpoint,
    commit,
    grow,
    opened,
)

from checkpoint import tags
from checkpoint.blobs import LocalDirectory, Memory
from checkpoint.collect import collect
from checkpoint.errors import Damaged, UnknownFormat, UnknownSession, WrongKey
from checkpoint.fork import fork
from checkpoint.fsck import check
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body, Manifest
from checkpoint.packs import tail_size
from checkpoint.repair import rebuild, repair, repair_key
from checkpoint.repository import Repository
from checkpoint.retention import Retention


def _session() -> Memory:
    """A session with a tag, a fork, and a list of garbage."""
    store = Memory()
    repository = opened(store)
    grow(repository, 6)
    tags.tag(repository, "good", 2)
    fork(repository, "two", MASTER, number=3)
    repository.prune(Retention(all=0, hourly=0, daily=0))
    collect(repository)
    grow(repository, 2)
    return store


def _flips(data: bytes, start: int, end: int) -> list[bytes]:
    generator = random.Random(end)
    places = {start, end - 1, *(generator.randrange(start, end) for _ in range(6))}
    flipped = []
    for at in sorted(places):
        damaged = bytearray(data)
        damaged[at] ^= 1 << generator.randrange(8)
        flipped.append(bytes(damaged))
    return flipped


def test_intact_store_is_read_once_and_nothing_is_found() -> None:
    store = _session()
    repository = opened(store)
    seen: list[tuple[str, int, int]] = []
    report = check(repository, lambda *step: seen.append(step))
    assert report.intact
    assert report.checkpoints == 5  # 2 (tagged), 6, 7, 8; and the fork's first
    assert seen[-1] == ("bytes of packs", report.size, report.size)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("manifests/00000007", "Checkpoint 7 of session 'one'"),
        ("tags/good", "Tag 'good' of session 'one'"),
        ("forks/two", "The marker of fork 'two' in session 'one'"),
        ("garbage", "The list of garbage of session 'one'"),
    ],
)
def test_flipped_bit_in_any_small_object_is_found_and_named(key: str, what: str) -> None:
    store = _session()
    key = f"sessions/one/{key}"
    whole = store.objects[key]
    for damaged in _flips(whole, 0, len(whole)):
        store.objects[key] = damaged
        [finding] = check(opened(store)).findings
        assert (finding.key, finding.what) == (key, what)
        assert what in finding.why
    store.objects[key] = whole
    assert check(opened(store)).intact


def test_flipped_bit_in_a_session_key_is_found_and_named() -> None:
    store = _session()
    whole = store.objects["sessions/one/key"]
    for damaged in _flips(whole, 0, len(whole)):
        store.objects["sessions/one/key"] = damaged
        with pytest.raises((Damaged, UnknownFormat), match="key of session 'one'"):
            opened(store)


@pytest.mark.parametrize("part", ["body", "index", "footer"])
def test_flipped_bit_in_any_part_of_a_pack_is_found_with_the_checkpoints_it_touches(
    part: str,
) -> None:
    store = _session()
    repository = opened(store)
    [ref] = set(repository.load(7).packs) & set(repository.load(8).packs)
    key = f"sessions/one/{ref.key}"
    whole = store.objects[key]
    index, footer = len(whole) - tail_size(ref), len(whole) - tail_size(ref) + ref.index_size
    places = {"body": (0, index), "index": (index, footer), "footer": (footer, len(whole))}
    for damaged in [*_flips(whole, *places[part]), whole + b"x", whole[:-1]]:
        store.objects[key] = damaged
        [finding] = check(repository).findings
        assert finding.key == key
        assert finding.what == f"Pack {ref.id.hex()}"
        assert finding.touches == {("one", 7), ("one", 8)}
    del store.objects[key]
    [finding] = check(repository).findings
    assert "missing from the store" in finding.why


def test_everything_comes_back_from_a_peer_copy() -> None:
    store = _session()
    peer = Memory()
    peer.objects = dict(store.objects)
    repository = opened(store)
    generator = random.Random(7)
    for key, data in list(store.objects.items()):
        if "/key" not in key:
            damaged = bytearray(data)
            damaged[generator.randrange(len(data))] ^= 16
            store.objects[key] = bytes(damaged)
    report = check(repository)
    # The manifests name the packs: those are found once the manifests are back.
    assert repair(repository, report, peer)
    assert repair(repository, check(repository), peer)
    assert check(repository).intact
    for name in ("one", "two"):
        assert_all_readable(opened(store, name))


def test_damaged_peer_copy_is_not_put_back() -> None:
    store = _session()
    repository = opened(store)
    ref = repository.load(8).packs[0]
    key = f"sessions/one/{ref.key}"
    peer = Memory()
    peer.objects[key] = store.objects[key][:-1] + bytes([store.objects[key][-1] ^ 1])
    del store.objects[key]
    assert repair(repository, check(repository), peer) == []
    assert key not in store.objects


def test_session_key_comes_back_from_a_peer_and_no_other() -> None:
    store = _session()
    peer = Memory()
    peer.objects = dict(store.objects)
    store.objects["sessions/one/key"] = b"damaged"
    repair_key(store, "one", peer, MASTER)
    assert_all_readable(opened(store))
    opened(peer, "other")
    peer.objects["sessions/one/key"] = peer.objects["sessions/other/key"]
    with pytest.raises(Damaged):
        repair_key(store, "one", peer, MASTER)


def test_damaged_manifest_comes_back_from_its_tag() -> None:
    store = _session()
    repository = opened(store)
    whole = store.objects["sessions/one/manifests/00000002"]
    store.objects["sessions/one/manifests/00000002"] = b"damaged"
    [repaired] = repair(repository, check(repository))
    assert repaired.source == "tag 'good'"
    assert store.objects["sessions/one/manifests/00000002"] == whole


def test_newest_checkpoint_is_made_anew_of_chunks_that_other_packs_hold() -> None:
    store = Memory()
    repository = opened(store)
    shared = b"in two packs" * 100
    first = checkpoint(repository, shared)
    with Repository.writer(repository, None) as writer:  # knows nothing of the first
        newest = commit(repository, body(writer, shared, b"in one pack" * 100))
    [ref] = set(newest.packs) - set(first.packs)
    key = f"sessions/one/{ref.key}"
    data = bytearray(store.objects[key])
    data[20] ^= 1  # within the shared chunk, which is the first
    store.objects[key] = bytes(data)
    report = check(repository)
    assert [finding.touches for finding in report.findings] == [{("one", 2)}]
    made = rebuild(repository, report)
    assert made is not None
    assert (made.number, made.parent, made.meta["rebuilt_from"]) == (3, 2, 2)
    repository.verify(made)
    assert ref not in made.packs
    assert rebuild(repository, check(repository)) is None  # the newest is intact now


def test_checkpoint_that_lacks_a_chunk_is_not_made_up() -> None:
    store = Memory()
    repository = opened(store)
    newest = checkpoint(repository, b"only here" * 100)
    key = f"sessions/one/{newest.packs[0].key}"
    data = bytearray(store.objects[key])
    data[20] ^= 1
    store.objects[key] = bytes(data)
    assert rebuild(repository, check(repository)) is None
    assert repository.numbers() == [1]


def test_root_that_no_pack_holds_is_named() -> None:
    store = Memory()
    repository = opened(store)
    first = checkpoint(repository, b"one")
    second = checkpoint(repository, b"two")
    bad = Manifest(3, 1, 2, 1.0, Body(first.packs, second.tree))
    repository.commit(bad)
    [finding] = check(repository).findings
    assert "no pack of checkpoint 3 holds it" in finding.why
    assert finding.touches == {("one", 3)}


def test_memory_stays_small_whatever_the_size(tmp_path: Path) -> None:
    store = LocalDirectory(tmp_path / "store")
    repository = opened(store)
    with repository.writer(None) as writer:
        names = [writer.add(random.Random(n).randbytes(1 << 20)) for n in range(96)]
        packs = writer.finish()
        commit(repository, Body(packs, names[0]))
    tracemalloc.start()
    try:
        report = check(repository)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.intact
    assert report.size > 96 << 20
    assert peak < 64 << 20


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UnknownSession, match="no session 'none'"):
        Repository.existing(Memory(), "none", MASTER)
    store = _session()
    with pytest.raises(WrongKey):
        Repository.existing(store, "one", MasterKey(b"x" * 32))


def test_checkpoints_and_packs_that_go_while_they_are_checked_are_no_damage() -> None:
    store = Memory()
    repository = opened(store)
    for _ in range(3):
        checkpoint(repository, random.randbytes(1000))

    def thins_out(what: str, done: int, total: int) -> None:
        if what.startswith("checkpoints of") and done == total:
            repository.prune(Retention(all=0, hourly=0, daily=0))
            collect(repository, offline=True)

    before = len(repository.numbers())
    report = check(repository, thins_out)
    assert len(repository.numbers()) < before
    assert report.findings == []
    last = repository.load(3)
    store.delete(f"sessions/one/{last.packs[-1].key}")
    [finding] = check(repository).findings
    assert "missing from the store" in finding.why
    assert finding.touches == {("one", 3)}


def test_pack_that_goes_while_it_is_read_is_named() -> None:
    store = Memory()
    repository = opened(store)
    made = checkpoint(repository, random.randbytes(1000))
    key = f"sessions/one/{made.packs[0].key}"

    class Vanishes(Memory):
        reads = 0

        def get(self, key_: str, start: int = 0, length: int | None = None) -> bytes:
            self.reads += key_ == key
            if self.reads > 2:
                self.objects.pop(key, None)
            return super().get(key_, start, length)

    vanishes = Vanishes()
    vanishes.objects = dict(store.objects)
    [finding] = check(opened(vanishes)).findings
    assert "missing from the store" in finding.why
