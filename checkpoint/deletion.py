"""Deleting a session.

First its chain is closed: by a last checkpoint, empty, that says `deleted`. From then on nobody can
commit, and a gateway that comes back is told so. Then goes what the session has, at the very end
the last checkpoint and the key. So a deletion that was ended anywhere leaves nothing that could be
taken for damage, and is finished by beginning it again.

Forks need the packs of their pool. Those of a session that has forks stay until the last fork is
deleted too; until then its last checkpoint stays as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from checkpoint import garbage, holder, labels
from checkpoint.errors import SessionDeleted, SessionInUse, StaleWriter
from checkpoint.fork import forks, marker_key
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import DELETED, Repository, manifest_key

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Deleted:
    """How many `checkpoints` and `packs` went; the forks that packs were `kept_for`; `pool`, the
    session deleted before whose packs nobody needs any more, so that they went too."""

    checkpoints: int
    packs: int
    kept_for: tuple[str, ...]
    pool: str | None


def delete(
    repository: Repository,
    *,
    silence: float = holder.SILENCE,
    progress: Progress = lambda what, done, total: None,
) -> Deleted:
    """Delete a session for good. May be ended at any point and called again.

    Raises `SessionInUse` while somebody runs it (see `checkpoint.holder`; up to `silence` seconds
    pass before that is known), and what the store raises.
    """
    closed = repository.is_closed()
    where = None if closed else holder.runs(repository, silence=silence, progress=progress)
    if where is not None:
        raise SessionInUse(repository.session_id, where)
    last = _close(repository) if not closed else repository.numbers()[-1]
    # Listed after the chain is closed: a fork that is not in the list finds it closed.
    needed_by = tuple(forks(repository)) if repository.pool == repository.session_id else ()
    gone = [number for number in repository.numbers() if number < last]
    _delete(repository, [f"{key}" for key in repository.blobs.list("tags/")], "tags", progress)
    holder.take_back(repository)
    labels.remove(repository)
    _delete(repository, map(manifest_key, gone), "checkpoints", progress)
    if repository.pool == repository.session_id:
        packs = 0 if needed_by else _finish(repository, last, progress)
        return Deleted(len(gone), packs, needed_by, None)
    repository.store.delete(marker_key(repository.pool, repository.session_id))
    pool = repository.sharing(repository.pool)
    packs, ended = 0, None
    numbers = pool.numbers()
    # Without any checkpoint: it was forked, so it had one, and all but its end is over.
    if (not numbers or pool.is_closed()) and not forks(pool):
        packs, ended = _finish(pool, (numbers or [0])[-1], progress), pool.session_id
    _forget(repository, last)
    return Deleted(len(gone), packs, (), ended)


def _close(repository: Repository) -> int:
    """Commit the last checkpoint; its number."""
    numbers = repository.numbers()
    newest = numbers[-1] if numbers else 0
    epochs = [
        found.epoch for _, found in repository.load_all(numbers[-1:]) if isinstance(found, Manifest)
    ]
    body = Body(meta={DELETED: True})
    epoch = max(epochs, default=0) + 1
    try:
        repository.commit(Manifest(newest + 1, epoch, newest or None, time.time(), body))
    except SessionDeleted:
        raise
    except StaleWriter:
        raise SessionInUse(repository.session_id, "an unknown machine") from None
    return newest + 1


def _finish(repository: Repository, last: int, progress: Progress) -> int:
    """Delete the packs of a pool that nobody needs, and all that is left; how many packs."""
    packs = list(repository.blobs.list("packs/"))
    _delete(repository, packs, "packs", progress)
    repository.store.delete(garbage.mark_key(repository.pool))
    _forget(repository, last)
    return len(packs)


def _forget(repository: Repository, last: int) -> None:
    repository.blobs.delete(manifest_key(last))
    repository.blobs.delete("key")


def _delete(
    repository: Repository, keys: list[str] | Iterator[str], what: str, progress: Progress
) -> None:
    listed = list(keys)
    with ThreadPoolExecutor(8, "delete") as pool:
        for done, _ in enumerate(pool.map(repository.blobs.delete, listed), 1):
            progress(f"deleting {what}", done, len(listed))
