"""Forks: a new session that begins with a checkpoint of another one and shares its chunks.

All forks use the packs of one pool, the first session's, under its key, which is wrapped anew for
each. In the pool a marker names each fork, and it is there before anything else of the fork is: so
whoever deletes packs knows of all who may need them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json

from checkpoint import tags
from checkpoint.blobs import BlobStore
from checkpoint.errors import (
    AlreadyExists,
    CheckpointError,
    Damaged,
    NotFound,
    SessionDeleted,
    SessionExists,
    StaleWriter,
    UnknownCheckpoint,
    UnknownSession,
    UnknownTag,
)
from checkpoint.keys import KeyWrapper, wrap_key
from checkpoint.manifest import Manifest
from checkpoint.repository import Repository, checked, manifest_key, open_key
from checkpoint.sealed import FORK


def fork(
    repository: Repository,
    session_id: str,
    *masters: KeyWrapper,
    number: int | None = None,
    tag: str | None = None,
) -> Repository:
    """A session `session_id` whose checkpoint 1 is checkpoint `number`, or the one called `tag`, or
    the newest of `repository`. Ended at any point and called again, it goes on.

    Raises `SessionExists`, `SessionDeleted`, `UnknownCheckpoint`, `UnknownTag`, `Damaged`, and what
    the store raises.
    """
    parent, store = repository.session_id, repository.store
    if checked(session_id) == parent:
        raise SessionExists(session_id)
    _refuse_other(repository, session_id, *masters)
    marker = encode_marker(repository, session_id)
    with contextlib.suppress(AlreadyExists):  # an earlier attempt
        store.create(marker_key(repository.pool, session_id), marker)
    # Read after the marker is there: packs that it names are not garbage from now on.
    try:
        manifest = _begins_with(repository, number, tag)
    except CheckpointError as error:
        if not error.retryable and not _has_key(store, session_id):
            store.delete(marker_key(repository.pool, session_id))
        raise
    made = repository.sharing(session_id)
    wrapped = wrap_key(masters[0], repository.keys.session_key, session_id, repository.pool)
    new = True
    try:
        store.create(f"sessions/{session_id}/key", wrapped)
    except AlreadyExists:  # an earlier attempt; perhaps it is there for long, and was run
        new = False
    _refuse_other(repository, session_id, *masters)
    try:
        made.commit(dataclasses.replace(manifest, number=1, parent=None))
    except StaleWriter:
        raise SessionExists(session_id) from None
    # It named all packs until the fork did. Of one that was deleted meanwhile, some may be gone.
    try:
        _confirm(repository, manifest, tag)
    except CheckpointError as error:
        if new and not error.retryable:
            _undo(made)
        raise
    return made


def _undo(made: Repository) -> None:
    made.blobs.delete(manifest_key(1))
    made.blobs.delete("key")
    made.store.delete(marker_key(made.pool, made.session_id))


def _confirm(repository: Repository, manifest: Manifest, tag: str | None) -> None:
    try:
        if tag is None:
            repository.load(manifest.number)
        elif tags.resolve(repository, tag).packs != manifest.packs:
            raise UnknownTag(repository.session_id, tag)
    except NotFound:
        raise UnknownCheckpoint(repository.session_id, manifest.number) from None


def forks(repository: Repository) -> list[str]:
    """The ids of the sessions that share this one's pool, from their markers, sorted."""
    prefix = marker_key(repository.pool, "")
    return [key[len(prefix) :] for key in repository.store.list(prefix)]


def pool_sessions(repository: Repository) -> list[Repository]:
    """All sessions of the pool: the first one, and its forks."""
    return [repository.sharing(one) for one in (repository.pool, *forks(repository))]


def check_marker(repository: Repository, session_id: str) -> None:
    """Read a fork's marker. Raises `NotFound`, `Damaged`, `UnknownFormat`."""
    what = f"The marker of fork {session_id!r} in session {repository.pool!r}"
    data = repository.store.get(marker_key(repository.pool, session_id))
    plain = FORK.decode(repository.keys, data, f"{repository.pool} {session_id}", what)
    try:
        json.loads(plain)
    except (RecursionError, ValueError):
        raise Damaged(what, "it is not JSON") from None


def encode_marker(parent: Repository, session_id: str) -> bytes:
    """The marker of a fork of `parent` as it is stored."""
    plain = json.dumps({"parent": parent.session_id}).encode()
    return FORK.encode(parent.keys, plain, f"{parent.pool} {session_id}")


def marker_key(pool: str, session_id: str) -> str:
    """Where the marker of a fork is in the store."""
    return f"sessions/{pool}/forks/{session_id}"


def _begins_with(repository: Repository, number: int | None, tag: str | None) -> Manifest:
    """What a fork begins with. A session that was not closed after the marker was there keeps what
    is shared: who closes it looks for markers then (`checkpoint.deletion`)."""
    if tag is not None:
        manifest = tags.resolve(repository, tag)
    else:
        try:
            manifest = repository.load(number or (repository.numbers() or [0])[-1])
        except NotFound:
            raise UnknownCheckpoint(repository.session_id, number) from None
    if repository.is_closed() or not repository.numbers():
        raise SessionDeleted(repository.session_id)
    return manifest


def _has_key(store: BlobStore, session_id: str) -> bool:
    key = f"sessions/{session_id}/key"
    return key in store.list(key)


def _refuse_other(repository: Repository, session_id: str, *masters: KeyWrapper) -> None:
    """A session of that id must not exist, but as an attempt at this fork that was ended."""
    try:
        found = open_key(repository.store, session_id, *masters)
    except UnknownSession:
        return
    if found[:2] != (repository.keys.session_key, repository.pool):
        raise SessionExists(session_id)
