"""Garbage collection: packs that nothing names are deleted, beside writers and without clocks.

A pack that nothing names may be one that a writer has stored and is about to name. So packs are
deleted in two runs. The first lists those that nothing names, and where each chain of the pool
ends. A later one deletes of those what no checkpoint has named *since*, once every chain has moved
on by `COMMITS`.

Why this is safe. A name of a pack is never made twice: it is a hash over random nonces. A writer
names packs that it found in the checkpoint it began with, or has written itself; after each
`Writer.finish` it has forgotten all that `finish` did not return. A body is committed before the
next one is finished. So the first commit after the list may be of a body that was finished before
it; the second one is of a body finished after it, and what that does not name, no later one will,
unless it is named by a checkpoint in between. Those are all looked at: should one of them be gone
already (`Repository.prune` leaves them), the list is void and made anew. A writer of an
earlier epoch, or of another gateway, that comes back is refused by the chain.

Of a session that nobody runs the caller may say so (`idle`; `checkpoint.holder.idle` knows), else a
fork that is never run would keep all garbage. A fork that is just being made has given no word
either: it looks at its end whether what it begins with is still there (`checkpoint.fork`).

A claim (`docs/checkpoint-format.md`) is a commit that no `finish` came before. Its gateway has
stored nothing then, and the one before it is refused: what either would name is not in the list.

A fork's marker is in the store before the fork reads the checkpoint it begins with, and markers are
listed last. So either its chain is in the list and has to move on as all others, or it began with a
checkpoint that was there when the list was made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from checkpoint import garbage, tags
from checkpoint.errors import NotFound
from checkpoint.fork import pool_sessions
from checkpoint.garbage import Mark
from checkpoint.manifest import Manifest, decode_manifest
from checkpoint.repository import DELETED, Repository

COMMITS = 2

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many of it are done, and how many there are."""


@dataclass(frozen=True)
class Collected:
    """`deleted` packs (hex ids); how many are `listed` to be deleted by a later run; the sessions
    that this `waits_for`: they must go on first, or be known to be idle."""

    deleted: tuple[str, ...]
    listed: int
    waits_for: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What one look at a pool found: packs (hex ids), those that are named, numbers per chain;
    the sessions whose chain is `closed`: they were deleted."""

    stored: frozenset[str]
    named: frozenset[str]
    chains: Mapping[str, list[int]]
    closed: frozenset[str]


def collect(
    repository: Repository,
    *,
    idle: Collection[str] = (),
    offline: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Collected:
    """Delete what an earlier run listed and nothing has named since; then list anew.

    `idle` are sessions of the pool of which the caller knows that nobody writes: they need not
    move on. `offline` says so of all, and deletes at once. May be ended at any point.

    Raises `Damaged` or `UnknownFormat` when something cannot be read: then nobody knows what it
    names, and nothing is deleted. Raises what the store raises.
    """
    store, pool, keys = repository.store, repository.pool, repository.keys
    mark = garbage.load(store, pool, keys)
    seen = look(repository, progress)
    idle = {*idle, *seen.closed}
    unnamed = seen.stored - seen.named
    doomed = frozenset[str]()
    if offline:
        doomed = unnamed
    elif mark is not None and not is_void(mark, seen.chains, idle):
        waits_for = behind(mark, seen.chains, idle)
        if waits_for:
            return Collected((), len(mark.packs & unnamed), waits_for)
        doomed = mark.packs & unnamed
    _delete(repository, sorted(doomed), progress)
    left = unnamed - doomed
    if left:
        chains = {name: (numbers or [0])[-1] for name, numbers in seen.chains.items()}
        new = Mark(frozenset(left), chains)
        store.put(garbage.mark_key(pool), garbage.encode(new, keys, pool))
    else:
        store.delete(garbage.mark_key(pool))
    return Collected(tuple(sorted(doomed)), len(left), ())


def behind(
    mark: Mark, chains: Mapping[str, list[int]], idle: Collection[str] = ()
) -> tuple[str, ...]:
    """The sessions that have not moved on far enough since `mark`, sorted."""
    return tuple(
        sorted(
            name
            for name, newest in mark.chains.items()
            # One that is not there any more was deleted: nobody writes it.
            if name not in idle and name in chains and (chains[name] or [0])[-1] < newest + COMMITS
        )
    )


def is_void(mark: Mark, chains: Mapping[str, list[int]], idle: Collection[str] = ()) -> bool:
    """Whether a checkpoint made after `mark` is gone, so that nobody knows what it named."""
    for name, newest in mark.chains.items():
        since = [number for number in chains.get(name, []) if number > newest]
        if name not in idle and since and len(since) != since[-1] - newest:
            return True
    return False


def look(repository: Repository, progress: Progress) -> Seen:
    """The packs of the pool, and which of them checkpoints and tags name. Raises as `collect`."""
    prefix = f"sessions/{repository.pool}/packs/"
    stored = frozenset(key[len(prefix) :] for key in repository.store.list(prefix))
    named: set[str] = set()
    chains: dict[str, list[int]] = {}
    closed: set[str] = set()
    # Markers are listed again when all else was read: see above.
    while new := [one for one in pool_sessions(repository) if one.session_id not in chains]:
        for session in new:
            listed = session.numbers()
            numbers = chains[session.session_id] = [*listed]
            what = f"reading the checkpoints of {session.session_id}"
            for done, (number, found) in enumerate(session.load_all(listed), 1):
                if isinstance(found, NotFound):
                    numbers.remove(number)  # pruned meanwhile
                    continue
                if not isinstance(found, Manifest):
                    raise found
                if DELETED in found.meta:
                    closed.add(session.session_id)
                named.update(ref.id.hex() for ref in found.packs)
                progress(what, done, len(listed))
            for tag in tags.load_all(session.blobs, session.keys, session.session_id):
                manifest = decode_manifest(tag.stored, session.keys, session.session_id, tag.number)
                named.update(ref.id.hex() for ref in manifest.packs)
    return Seen(stored, frozenset(named), chains, frozenset(closed))


def _delete(repository: Repository, packs: list[str], progress: Progress) -> None:
    prefix = f"sessions/{repository.pool}/packs/"
    with ThreadPoolExecutor(8, "collect") as pool:
        deletions = pool.map(lambda name: repository.store.delete(prefix + name), packs)
        for done, _ in enumerate(deletions, 1):
            progress("deleting packs", done, len(packs))
