from __future__ import annotations

import contextlib
import multiprocessing
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from blake3 import blake3
from faulty_stores import DyingStore

from checkpoint.blobs import LocalDirectory, Memory
from checkpoint.chunks import chunk_id
from checkpoint.errors import (
    CheckpointError,
    Damaged,
    KeysBeingReplaced,
    KeyStillNeeded,
    StoreUnavailable,
    UnknownFormat,
    WrongKey,
)
from checkpoint.keys import (
    MasterKey,
    SessionKeys,
    add_master_key,
    keep_first_master_key,
    master_keys,
    master_keys_of_environment,
    unwrap_key,
    wrap_key,
)
from checkpoint.repository import create_or_open_key, open_key
from checkpoint.rotation import drop_old, left_behind, rewrap, rotate

SESSION_KEY = bytes(range(32))


def test_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: MasterKey.from_file(path), range(8)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["master.key"]
    wrapped = wrap_key(keys[0], SESSION_KEY, "one", "one")
    assert all(unwrap_key(wrapped, "one", key).session_key == SESSION_KEY for key in keys)


@pytest.mark.parametrize("content", [b"", b"not a key\n", b"ab" * 31, b"\xff" * 64])
def test_file_that_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    with pytest.raises(WrongKey, match=r"master\.key"):
        MasterKey.from_file(path)
    assert path.read_bytes() == content


def test_wrapped_key_opens_for_its_session_and_master_alone() -> None:
    master = MasterKey(b"m" * 32)
    wrapped = wrap_key(master, SESSION_KEY, "one", "pool")
    assert unwrap_key(wrapped, "one", master)[:2] == (SESSION_KEY, "pool")
    assert SESSION_KEY not in wrapped
    with pytest.raises(Damaged, match="two"):
        unwrap_key(wrapped, "two", master)
    with pytest.raises(WrongKey, match="another master key"):
        unwrap_key(wrapped, "one", MasterKey(b"n" * 32))


def test_every_flipped_bit_of_a_wrapped_key_is_found() -> None:
    master = MasterKey(b"m" * 32)
    wrapped = wrap_key(master, SESSION_KEY, "one", "one")
    for bit in range(len(wrapped) * 8):
        damaged = bytearray(wrapped)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, UnknownFormat), match="'one'"):
            unwrap_key(bytes(damaged), "one", master)
    for end in range(len(wrapped)):
        with pytest.raises(Damaged):
            unwrap_key(wrapped[:end], "one", master)


def test_all_who_open_a_session_at_once_get_the_same_key() -> None:
    store, master = Memory(), MasterKey(b"m" * 32)
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: create_or_open_key(store, "one", master), range(8)))
    assert len({key.session_key for key in keys}) == 1
    assert create_or_open_key(store, "two", master).session_key != keys[0].session_key


def test_sessions_cannot_tell_what_others_hold() -> None:
    one, two = SessionKeys(b"1" * 32), SessionKeys(b"2" * 32)
    assert chunk_id(one, b"data") == chunk_id(one, b"data")
    assert chunk_id(one, b"data") != chunk_id(two, b"data")


def test_key_of_the_wrong_length_is_refused() -> None:
    for make in (MasterKey, SessionKeys):
        with pytest.raises(WrongKey, match="32 bytes, not 5"):
            make(b"short")


def test_session_id_cannot_leave_the_store() -> None:
    for session_id in ("", "..", "a/b", "../x", ".hidden", "x" * 200):
        with pytest.raises((ValueError, CheckpointError)):
            create_or_open_key(Memory(), session_id, MasterKey(b"m" * 32))


def test_key_of_version_1_is_still_read() -> None:
    """As it was written before there were forks."""
    master = MasterKey(b"m" * 32)
    body = b"SKKY\x01" + master.key_id + master.wrap(SESSION_KEY, b"one")
    wrapped = body + blake3(body).digest()[:8]
    assert unwrap_key(wrapped, "one", master) == (SESSION_KEY, "one", master.key_id)


def test_key_of_a_newer_version_is_named() -> None:
    master = MasterKey(b"m" * 32)
    newer = bytearray(wrap_key(master, SESSION_KEY, "one", "one"))
    newer[4] = 7
    with pytest.raises(UnknownFormat, match="'one' has format version 7; this release reads up to"):
        unwrap_key(bytes(newer), "one", master)


class Service:
    """A key management service: its key stays inside, its answers are longer than a key."""

    key_id = b"service1"

    def __init__(self) -> None:
        self._inside = MasterKey(b"s" * 32)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        return b"service blob " * 20 + self._inside.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return self._inside.unwrap(wrapped[260:], context)


def test_key_service_can_take_the_place_of_a_master_key() -> None:
    store, old, service = Memory(), MasterKey(b"m" * 32), Service()
    before = create_or_open_key(store, "one", old).session_key
    assert rewrap(store, service, old) == ["one"]
    assert create_or_open_key(store, "one", service).session_key == before
    with pytest.raises(WrongKey):
        create_or_open_key(store, "one", old)


def test_environment_gives_keys_and_never_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert master_keys_of_environment("NO_SUCH_KEY") == []
    monkeypatch.setenv("KEYS", "ab" * 32 + " " + "cd" * 32)
    first, second = master_keys_of_environment("KEYS")
    assert first.key_id == MasterKey(b"\xab" * 32).key_id
    assert second.key_id == MasterKey(b"\xcd" * 32).key_id
    monkeypatch.setenv("KEYS", "5ecret")
    with pytest.raises(WrongKey, match="KEYS does not hold") as caught:
        master_keys_of_environment("KEYS")
    assert "5ecret" not in str(caught.value)


def test_rotation_goes_on_after_a_crash_at_any_write(tmp_path: Path) -> None:
    """Old and new keys open every session at every moment; in the end the old one is not needed."""
    sessions = ["one", "two", "three"]
    for operations in range(len(sessions) + 1):
        for failed_is_done in (False, True):
            path = tmp_path / f"{operations}{failed_is_done}.key"
            [old] = master_keys(path)
            store = Memory()
            before = {name: create_or_open_key(store, name, old)[:2] for name in sessions}
            new = add_master_key(path)
            assert [key.key_id for key in master_keys(path)] == [new.key_id, old.key_id]
            dying = DyingStore(store, operations, failed_is_done=failed_is_done)
            try:
                rewrap(dying, *master_keys(path))
                died = False
            except StoreUnavailable:
                died = True
            assert died == (operations < len(sessions))
            both = master_keys(path)
            assert {name: create_or_open_key(store, name, *both)[:2] for name in sessions} == before
            rewrap(store, *both)
            assert list(left_behind(store, *both)) == []
            keep_first_master_key(path)
            [only] = master_keys(path)
            assert only.key_id == new.key_id
            assert {name: create_or_open_key(store, name, only)[:2] for name in sessions} == before


def _rotates(base: Path, start: Barrier) -> None:
    store = LocalDirectory(base / "store")
    start.wait()
    for _ in range(3):
        with contextlib.suppress(KeysBeingReplaced):
            rotate(store, base / "key")
        with contextlib.suppress(KeysBeingReplaced, KeyStillNeeded):
            drop_old(store, base / "key")


def test_processes_that_replace_the_key_at_once_lose_no_session(tmp_path: Path) -> None:
    store, path = LocalDirectory(tmp_path / "store"), tmp_path / "key"
    sessions = [f"s{number}" for number in range(3)]
    keys = {one: create_or_open_key(store, one, *master_keys(path))[0] for one in sessions}
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=_rotates, args=(tmp_path, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert {one: open_key(store, one, *master_keys(path))[0] for one in sessions} == keys
