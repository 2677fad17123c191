"""What whoever keeps sessions wants to be remembered of each: opaque bytes, sealed with its key.

labels/<session>        beside `sessions/`, so that the sessions of a store are one short listing
"""

from __future__ import annotations

from checkpoint.blobs import BlobStore
from checkpoint.errors import NotFound
from checkpoint.repository import Repository
from checkpoint.sealed import LABEL

_PREFIX = "labels/"


def put(repository: Repository, plain: bytes) -> None:
    """Remember this of the session, in place of what was remembered. Raises what the store does."""
    data = LABEL.encode(repository.keys, plain, repository.session_id)
    repository.store.put(_PREFIX + repository.session_id, data)


def get(repository: Repository) -> bytes | None:
    """What is remembered of the session; None: nothing is. Raises `Damaged`, `UnknownFormat`, and
    what the store raises."""
    try:
        data = repository.store.get(_PREFIX + repository.session_id)
    except NotFound:
        return None
    session = repository.session_id
    return LABEL.decode(repository.keys, data, session, f"The label of session {session}")


def remove(repository: Repository) -> None:
    """Forget it."""
    repository.store.delete(_PREFIX + repository.session_id)


def sessions(store: BlobStore) -> list[str]:
    """The sessions that something is remembered of."""
    return sorted(key.removeprefix(_PREFIX) for key in store.list(_PREFIX))
