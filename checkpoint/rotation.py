"""Replacing the master key: every session's key is wrapped anew; the sessions' objects stay.

It may be ended at any point and begun again: each key is replaced whole, and until the last one is,
both master keys are accepted (`checkpoint.keys.master_keys`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoint.blobs import BlobStore
from checkpoint.errors import KeyStillNeeded, NotFound
from checkpoint.keys import (
    KeyWrapper,
    add_master_key,
    keep_first_master_key,
    locked,
    master_keys,
    unwrap_key,
    wrap_key,
)


class Rotated(NamedTuple):
    """The `sessions` whose keys were wrapped anew; whether an earlier rotation was `resumed`."""

    sessions: list[str]
    resumed: bool


class Dropped(NamedTuple):
    """How many sessions were `checked` to have the new key; where the `old` ones are now."""

    checked: int
    old: list[Path]


def rotate(
    store: BlobStore,
    path: str | os.PathLike[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rotated:
    """Put a new master key before those in the file `path`, and wrap every session's key with it;
    finish that first where it was begun and ended. The old keys stay in the file.

    Raises `KeysBeingReplaced`, and as `rewrap`.
    """
    with locked(path):
        # Read under the lock: who had it before may have put another key there.
        resumed = any(True for _ in left_behind(store, *master_keys(path)))
        if not resumed:
            add_master_key(path)
        return Rotated(rewrap(store, *master_keys(path), progress=progress), resumed)


def drop_old(store: BlobStore, path: str | os.PathLike[str]) -> Dropped:
    """Take all keys but the newest out of the file `path`, into files beside it.

    Raises `KeyStillNeeded` when a session needs one, or there is no session that could tell;
    `KeysBeingReplaced`, and as `rewrap`.
    """
    with locked(path):
        masters = master_keys(path)
        if not (sessions := session_ids(store)):
            raise KeyStillNeeded("There is no session in this store: the old keys were left.")
        if behind := list(left_behind(store, *masters)):
            raise KeyStillNeeded(f"The old key is still needed for {', '.join(behind)}.")
        return Dropped(len(sessions), keep_first_master_key(path))


def session_ids(store: BlobStore) -> list[str]:
    """All sessions that have a key in `store`, sorted."""
    keys = (key.split("/") for key in store.list("sessions/"))
    return sorted(key[1] for key in keys if len(key) == 3 and key[2] == "key")


def rewrap(
    store: BlobStore,
    master: KeyWrapper,
    *older: KeyWrapper,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Wrap with `master` what was wrapped with one of `older`; the sessions that were.

    Calls `progress(done, total)` after each session. Raises `WrongKey` for a session that none of
    the keys opens, `Damaged`, `UnknownFormat`, and what the store raises; those before it are done.
    """
    sessions = session_ids(store)
    done = []
    for number, session_id in enumerate(sessions, 1):
        found = unwrap_key(store.get(_key(session_id)), session_id, master, *older)
        if found.key_id != master.key_id:
            wrapped = wrap_key(master, found.session_key, session_id, found.pool)
            store.put(_key(session_id), wrapped)
            done.append(session_id)
        progress(number, len(sessions))
    return done


def left_behind(store: BlobStore, master: KeyWrapper, *older: KeyWrapper) -> Iterator[str]:
    """The sessions that `master` does not open yet. Raises as `rewrap`."""
    for session_id in session_ids(store):
        try:
            wrapped = store.get(_key(session_id))
        except NotFound:
            continue
        if unwrap_key(wrapped, session_id, master, *older).key_id != master.key_id:
            yield session_id


def _key(session_id: str) -> str:
    return f"sessions/{session_id}/key"
