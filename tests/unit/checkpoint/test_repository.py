from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path

import pytest
from faulty_stores import DyingStore
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from checkpoint.blobs import BlobStore, LocalDirectory, Memory
from checkpoint.errors import (
    Damaged,
    NotFound,
    SessionDeleted,
    StaleWriter,
    StoreFull,
    StoreUnavailable,
)
from checkpoint.keys import MasterKey, SessionKeys
from checkpoint.manifest import Body, Manifest, Part, decode_body, encode_body
from checkpoint.objects import load_object, store_object
from checkpoint.repository import Repository

KEYS = SessionKeys(b"k" * 32)


def _manifest(number: int, epoch: int = 1, **meta: object) -> Manifest:
    return Manifest(number, epoch, number - 1 or None, 1000.0 + number, Body(meta=meta))


def _content(number: int) -> bytes:
    return random.Random(number).randbytes(3 << 20)


def _checkpoint(repository: Repository, number: int, base: Manifest | None) -> Manifest:
    """A checkpoint whose content depends on its number; half of it is the base's."""
    with repository.writer(base) as writer:
        old = store_object(writer, _content(number - 1))
        new = store_object(writer, _content(number))
        body = Body(
            writer_packs := writer.finish(), old.id, {"k": Part("test", new.id)}, {"n": number}
        )
    assert writer_packs
    body = decode_body(encode_body(body))  # as between node and committer
    manifest = Manifest(number, 1, base.number if base else None, float(number), body)
    repository.commit(manifest)
    return manifest


def _assert_intact(store: BlobStore, number: int) -> None:
    repository = Repository(store, "one", KEYS)
    manifest = repository.load(number)
    repository.verify(manifest)
    with repository.reader(manifest) as reader:
        assert manifest.tree is not None
        root = manifest.processes["k"].root
        assert root is not None
        assert load_object(reader, manifest.tree) == _content(number - 1)
        assert load_object(reader, root) == _content(number)


def test_chain_is_numbered_and_read_back() -> None:
    repository = Repository(Memory(), "one", KEYS)
    assert repository.newest() is None
    assert repository.numbers() == []
    for number in (1, 2, 3):
        repository.commit(_manifest(number))
    assert repository.numbers() == [1, 2, 3]
    assert repository.newest() == _manifest(3)
    assert repository.load(2) == _manifest(2)
    with pytest.raises(NotFound, match="00000004"):
        repository.load(4)


def test_order_is_that_of_numbers_beyond_eight_digits() -> None:
    repository = Repository(Memory(), "one", KEYS)
    for number in (99_999_999, 100_000_000):
        repository.blobs.create(f"manifests/{number:08d}", b"")
    assert repository.numbers() == [99_999_999, 100_000_000]


def test_sessions_of_one_store_do_not_see_each_other() -> None:
    store, master = Memory(), MasterKey(b"m" * 32)
    one, two = (Repository.open(store, name, master) for name in ("one", "two"))
    one.commit(_manifest(1))
    assert two.newest() is None
    assert Repository.open(store, "one", master).newest() == _manifest(1)


def test_stale_writer_is_refused_and_told_who_has_the_session() -> None:
    store = Memory()
    old, new = Repository(store, "one", KEYS), Repository(store, "one", KEYS)
    old.commit(_manifest(1, epoch=1))
    new.commit(_manifest(2, epoch=2))
    with pytest.raises(StaleWriter, match="checkpoint 2 exists, written under epoch 2") as caught:
        old.commit(_manifest(2, epoch=1))
    assert (caught.value.number, caught.value.epoch) == (2, 2)
    with pytest.raises(StaleWriter):  # also when it learns of the number
        old.commit(_manifest(3, epoch=1))
    assert new.newest() == _manifest(2, epoch=2)


def test_of_two_writers_at_once_one_commits() -> None:
    store = Memory()
    refused: list[StaleWriter] = []
    barrier = threading.Barrier(4)

    def commit(epoch: int) -> None:
        repository = Repository(store, "one", KEYS)
        barrier.wait()
        try:
            repository.commit(_manifest(1, epoch=epoch))
        except StaleWriter as error:
            refused.append(error)

    threads = [threading.Thread(target=commit, args=(epoch,)) for epoch in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    newest = Repository(store, "one", KEYS).newest()
    assert newest is not None
    assert [error.epoch for error in refused] == [newest.epoch] * 3


def test_committing_again_after_a_lost_answer_is_no_error() -> None:
    store = Memory()
    dying = DyingStore(store, 0, failed_is_done=True)
    with pytest.raises(StoreUnavailable):
        Repository(dying, "one", KEYS).commit(_manifest(1))
    Repository(store, "one", KEYS).commit(_manifest(1))
    with pytest.raises(StaleWriter):
        Repository(store, "one", KEYS).commit(_manifest(1, other=True))


def test_gap_in_the_numbers_is_a_mistake() -> None:
    repository = Repository(Memory(), "one", KEYS)
    repository.commit(_manifest(1))
    with pytest.raises(ValueError, match="next checkpoint is 2"):
        repository.commit(_manifest(3))


@pytest.mark.parametrize("failed_is_done", [False, True])
def test_crash_at_any_write_loses_nothing_committed(failed_is_done: bool) -> None:
    """Three checkpoints on a store that dies after operation n, for all n; then it comes back."""
    died = True
    operations = 0
    while died:
        store = Memory()
        dying = DyingStore(store, operations, failed_is_done=failed_is_done)
        committed: list[int] = []
        died = False
        manifest: Manifest | None = None
        try:
            for number in (1, 2, 3):
                manifest = _checkpoint(Repository(dying, "one", KEYS), number, manifest)
                committed.append(number)
        except StoreUnavailable:
            died = True
        for number in committed:
            _assert_intact(store, number)
        repository = Repository(store, "one", KEYS)
        newest, skipped = repository.newest_intact(verify=True)
        assert not skipped
        known = newest.number if newest else 0
        assert known - (committed[-1] if committed else 0) in (0, 1)
        _checkpoint(repository, known + 1, newest)
        _assert_intact(store, known + 1)
        operations += 1
    assert operations > 6


@pytest.fixture
def damaged() -> tuple[Memory, Manifest]:
    store = Memory()
    repository = Repository(store, "one", KEYS)
    first = _checkpoint(repository, 1, None)
    return store, _checkpoint(repository, 2, first)


def test_flipped_bit_anywhere_is_found_named_and_passed_over(
    damaged: tuple[Memory, Manifest],
) -> None:
    store, manifest = damaged
    repository = Repository(store, "one", KEYS)
    of_second = {ref.key for ref in manifest.packs} - {ref.key for ref in repository.load(1).packs}
    keys = {f"sessions/one/{key}" for key in (*of_second, "manifests/00000002")}
    assert keys < set(store.objects)
    generator = random.Random(1)
    for key in sorted(keys):
        whole = store.objects[key]
        ends = [0, 1, 4, len(whole) - 1, len(whole) - 5, len(whole) - 12, len(whole) - 60]
        for at in [*ends, *generator.choices(range(len(whole)), k=10)]:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << generator.randrange(8)
            store.objects[key] = bytes(flipped)
            newest, [skipped] = repository.newest_intact(verify=True)
            assert newest is not None
            assert newest.number == 1
            assert skipped.number == 2
            name = key.rpartition("/")[2]
            assert name in skipped.reason or "Checkpoint 2 of session 'one'" in skipped.reason
        store.objects[key] = whole
    assert repository.newest_intact(verify=True) == (manifest, [])


def test_missing_and_cut_packs_are_found_without_reading_everything(
    damaged: tuple[Memory, Manifest],
) -> None:
    store, manifest = damaged
    repository = Repository(store, "one", KEYS)
    [ref] = set(manifest.packs) - set(repository.load(1).packs)
    whole = store.objects.pop(f"sessions/one/{ref.key}")
    newest, skipped = repository.newest_intact()
    assert newest is not None
    assert newest.number == 1
    assert "missing" in skipped[0].reason
    store.objects[f"sessions/one/{ref.key}"] = whole[:-1]
    assert repository.newest_intact()[1][0].number == 2
    with pytest.raises(Damaged, match=ref.id.hex()):
        repository.verify(manifest)


def test_nothing_intact_gives_none_and_every_reason() -> None:
    store = Memory()
    repository = Repository(store, "one", KEYS)
    repository.commit(_manifest(1))
    store.objects["sessions/one/manifests/00000001"] = b"SKMF\x07"
    newest, skipped = repository.newest_intact()
    assert newest is None
    assert "format version 7" in skipped[0].reason
    repository.commit(_manifest(2))  # the chain can go on
    assert repository.newest_intact() == (_manifest(2), [])


@pytest.mark.needs("root")
def test_full_disk_keeps_what_was_committed_and_goes_on_with_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=True)
    try:
        store = LocalDirectory(disk)
        repository = Repository(store, "one", KEYS)
        manifest = _checkpoint(repository, 1, None)
        manifest = _checkpoint(repository, 2, manifest)
        (disk / "other").write_bytes(bytes(4 << 20))
        with pytest.raises(StoreFull):
            _checkpoint(repository, 3, manifest)
        newest, skipped = repository.newest_intact(verify=True)
        assert newest == manifest
        assert not skipped
        for number in repository.numbers():
            _assert_intact(store, number)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        _checkpoint(repository, manifest.number + 1, manifest)
        _assert_intact(store, manifest.number + 1)
    finally:
        subprocess.run(["umount", disk], check=True)


class Chain(RuleBasedStateMachine):
    """Writers of several epochs on one chain, against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.repository = Repository(Memory(), "one", KEYS)
        self.model: list[Manifest] = []

    @rule(epoch=st.integers(1, 4), number=st.integers(1, 8), mark=st.integers(0, 2))
    def commit(self, epoch: int, number: int, mark: int) -> None:
        manifest = _manifest(number, epoch, mark=mark)
        try:
            self.repository.commit(manifest)
        except SessionDeleted:
            assert not self.model
            assert number > 1
        except StaleWriter as stale:
            self.refused(stale, manifest)
        except ValueError:
            assert number > len(self.model) + 1
        else:
            if number == len(self.model) + 1:
                assert not self.model or epoch >= self.model[-1].epoch
                self.model.append(manifest)
            assert self.model[number - 1] == manifest

    def refused(self, stale: StaleWriter, manifest: Manifest) -> None:
        newest = self.model[-1]
        assert (stale.number, stale.epoch) == (newest.number, newest.epoch)
        assert manifest.number <= newest.number or manifest.epoch < newest.epoch

    @invariant()
    def chain_is_the_model(self) -> None:
        assert self.repository.numbers() == [manifest.number for manifest in self.model]
        assert self.repository.newest() == (self.model[-1] if self.model else None)


TestChain = Chain.TestCase
TestChain.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
