from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.chunks import chunk_id
from checkpoint.errors import CheckpointError, Damaged, UnknownFormat, WrongKey
from checkpoint.keys import MasterKey, SessionKeys
from checkpoint.repository import create_or_open_key

SESSION_KEY = bytes(range(32))


def test_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: MasterKey.from_file(path), range(8)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["master.key"]
    wrapped = keys[0].wrap(SESSION_KEY, "one")
    assert all(key.unwrap(wrapped, "one") == SESSION_KEY for key in keys)


@pytest.mark.parametrize("content", [b"", b"not a key\n", b"ab" * 31, b"\xff" * 64])
def test_file_that_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    with pytest.raises(WrongKey, match=r"master\.key"):
        MasterKey.from_file(path)
    assert path.read_bytes() == content


def test_wrapped_key_opens_for_its_session_and_master_alone() -> None:
    master = MasterKey(b"m" * 32)
    wrapped = master.wrap(SESSION_KEY, "one")
    assert master.unwrap(wrapped, "one") == SESSION_KEY
    assert SESSION_KEY not in wrapped
    with pytest.raises(Damaged, match="two"):
        master.unwrap(wrapped, "two")
    with pytest.raises(WrongKey, match="another master key"):
        MasterKey(b"n" * 32).unwrap(wrapped, "one")


def test_every_flipped_bit_of_a_wrapped_key_is_found() -> None:
    master = MasterKey(b"m" * 32)
    wrapped = master.wrap(SESSION_KEY, "one")
    for bit in range(len(wrapped) * 8):
        damaged = bytearray(wrapped)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, UnknownFormat), match="'one'"):
            master.unwrap(bytes(damaged), "one")
    for end in range(len(wrapped)):
        with pytest.raises(Damaged):
            master.unwrap(wrapped[:end], "one")


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
