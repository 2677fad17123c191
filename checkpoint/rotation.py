"""Replacing the master key: every session's key is wrapped anew; the sessions' objects stay.

It may be ended at any point and begun again: each key is replaced whole, and until the last one is,
both master keys are accepted (`checkpoint.keys.master_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from checkpoint.blobs import BlobStore
from checkpoint.errors import NotFound
from checkpoint.keys import KeyWrapper, unwrap_key, wrap_key


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
