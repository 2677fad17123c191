"""The repository of one session: a chain of numbered manifests over chunks in packs.

sessions/<id>/key                     session key, wrapped by the master key
sessions/<id>/manifests/<08d>         created only if absent: first come owns it
sessions/<id>/packs/<hex>             see `checkpoint.packs`
sessions/<id>/tags/<name>             a checkpoint that is kept (`checkpoint.tags`)
sessions/<id>/forks/<id>              a session that shares these packs (`checkpoint.fork`)
sessions/<id>/garbage                 packs that may go (`checkpoint.collect`)
sessions/<id>/holder                  word of who runs it (`checkpoint.holder`)

A fork has no packs of its own: those of all forks are in one *pool*, its first session's.
"""

from __future__ import annotations

import contextlib
import heapq
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

from checkpoint import garbage, tags
from checkpoint.blobs import BlobStore, Buffer, Prefixed
from checkpoint.errors import (
    AlreadyExists,
    Damaged,
    NotFound,
    SessionDeleted,
    StaleWriter,
    UnknownFormat,
    UnknownSession,
)
from checkpoint.keys import KeyWrapper, SessionKeys, Unwrapped, unwrap_key, wrap_key
from checkpoint.manifest import Manifest, decode_manifest, encode_manifest
from checkpoint.packs import verify_pack
from checkpoint.reader import Reader
from checkpoint.retention import Dated, Retention, retained
from checkpoint.writer import Writer

DELETED = "deleted"
"""In `meta` of the last checkpoint of a session that was deleted (`checkpoint.deletion`)."""

_LOADERS = 8
_SESSION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NUMBER = re.compile(r"manifests/(\d{8,})")


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that was passed over, and why (a sentence)."""

    number: int
    reason: str


class SessionBlobs(Prefixed):
    """A session's part of `store`; its packs are those of `pool`, which may be another session."""

    def __init__(self, store: BlobStore, session_id: str, pool: str) -> None:
        super().__init__(store, f"sessions/{session_id}/")
        self._pool = Prefixed(store, f"sessions/{pool}/")
        self._shared = pool != session_id

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._place(key).get(key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        self._place(key).put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._place(key).create(key, data)

    def delete(self, key: str) -> None:
        self._place(key).delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        if not self._shared:
            return super().list(prefix)
        if prefix.startswith("packs/"):
            return self._pool.list(prefix)
        packs = self._pool.list("packs/") if "packs/".startswith(prefix) else iter(())
        return heapq.merge(super().list(prefix), packs)

    def _place(self, key: str) -> Prefixed:
        shared = self._shared and key.startswith("packs/")
        return self._pool if shared else Prefixed(self.store, self.prefix)


def open_key(store: BlobStore, session_id: str, *masters: KeyWrapper) -> Unwrapped:
    """The session's key. Raises `UnknownSession`, `Damaged`, `WrongKey`, `UnknownFormat`."""
    try:
        return unwrap_key(store.get(_key(session_id)), session_id, *masters)
    except NotFound:
        raise UnknownSession(session_id) from None


def create_or_open_key(store: BlobStore, session_id: str, *masters: KeyWrapper) -> Unwrapped:
    """As `open_key`, but a session that has none yet gets a new key, wrapped by the first of
    `masters`; the same for all who ask at once."""
    try:
        return open_key(store, session_id, *masters)
    except UnknownSession:
        session_key = SessionKeys.generate().session_key
        wrapped = wrap_key(masters[0], session_key, session_id, session_id)
        with contextlib.suppress(AlreadyExists):
            store.create(_key(session_id), wrapped)
        return open_key(store, session_id, *masters)


class Repository:
    """Checkpoints of one session. Every method may raise what the store raises.

    `blobs` is the session's part of the store: what a `Writer` or `Reader` on a node works with.
    `pool` is the session whose packs it uses: itself, unless it is a fork.
    """

    def __init__(
        self, store: BlobStore, session_id: str, keys: SessionKeys, pool: str | None = None
    ) -> None:
        self.store = store
        self.session_id = checked(session_id)
        self.keys = keys
        self.pool = pool or session_id
        self.blobs = SessionBlobs(store, session_id, self.pool)

    @classmethod
    def open(cls, store: BlobStore, session_id: str, *masters: KeyWrapper) -> Self:
        """The session's repository, begun if there is none. Raises as `create_or_open_key`."""
        found = create_or_open_key(store, checked(session_id), *masters)
        return cls(store, session_id, SessionKeys(found.session_key), found.pool)

    @classmethod
    def existing(cls, store: BlobStore, session_id: str, *masters: KeyWrapper) -> Self:
        """The session's repository. Raises as `open_key`."""
        found = open_key(store, checked(session_id), *masters)
        return cls(store, session_id, SessionKeys(found.session_key), found.pool)

    def sharing(self, session_id: str) -> Repository:
        """Another session of the same pool: the first one, or a fork."""
        return Repository(self.store, session_id, self.keys, self.pool)

    def numbers(self) -> list[int]:
        """The numbers of all checkpoints, ascending."""
        matches = map(_NUMBER.fullmatch, self.blobs.list("manifests/"))
        return sorted(int(match[1]) for match in matches if match)

    def load(self, number: int) -> Manifest:
        """The manifest of that number. Raises `NotFound`, `Damaged`, `UnknownFormat`."""
        data = self.blobs.get(manifest_key(number))
        return decode_manifest(data, self.keys, self.session_id, number)

    def newest(self) -> Manifest | None:
        """The manifest of the highest number, None when there is none. Raises as `load`."""
        numbers = self.numbers()
        return self.load(numbers[-1]) if numbers else None

    def is_closed(self) -> bool:
        """Whether the session was deleted, or its deletion has begun. Raises `UnknownFormat`."""
        try:
            newest = self.newest()
        except (Damaged, NotFound):
            return False
        return newest is not None and DELETED in newest.meta

    def newest_intact(self, *, verify: bool = False) -> tuple[Manifest | None, list[Skipped]]:
        """The newest checkpoint that is intact, and those that were passed over for it.

        With `verify` every byte of its packs is read; without, only manifest and pack indices are.
        """
        skipped: list[Skipped] = []
        for number in reversed(self.numbers()):
            try:
                manifest = self.load(number)
                if verify:
                    self.verify(manifest)
                else:
                    self.reader(manifest).close()
            except (Damaged, UnknownFormat, NotFound) as error:
                skipped.append(Skipped(number, str(error)))
            else:
                return manifest, skipped
        return None, skipped

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the next checkpoint: created under its number only if there is none.

        Committing the same manifest again is no error (the first answer may have been lost).
        Raises `StaleWriter` when the number is taken or the newest manifest has a higher epoch
        (`SessionDeleted` when it is the last one), and `ValueError` when the number is not the next
        one.
        """
        numbers = self.numbers()
        newest = numbers[-1] if numbers else 0
        if newest >= manifest.number:
            self._refuse_unless_same(manifest)
            return
        if not numbers and manifest.number > 1:
            raise SessionDeleted(self.session_id)
        if manifest.number != newest + 1:
            raise ValueError(f"the next checkpoint is {newest + 1}, not {manifest.number}")
        self._refuse_stale(manifest, newest)
        data = encode_manifest(manifest, self.keys, self.session_id)
        try:
            self.blobs.create(manifest_key(manifest.number), data)
        except AlreadyExists:
            self._refuse_unless_same(manifest)
        # The number may have been free because others went on from it and then pruned it.
        newest = self.numbers()[-1]
        if newest > manifest.number:
            raise StaleWriter(self.session_id, newest, self._epoch(newest))

    def prune(self, policy: Retention, *, damaged: bool = False, dry: bool = False) -> list[int]:
        """Delete the checkpoints that `policy` does not keep; their numbers. Numbers are never
        used again: the newest checkpoint stays, whatever it is.

        One that cannot be read is kept, unless `damaged`. With `dry` nothing is deleted. What a
        collection of garbage under way has to look at stays until it has
        (`checkpoint.collect`). Safe beside writers, and at any point of a crash.
        """
        numbers = self.numbers()
        dated, unreadable = [], []
        for number, found in self.load_all(numbers):
            if isinstance(found, Manifest):
                dated.append(Dated(number, found.created))
            else:
                unreadable.append(number)
        kept = retained(dated, policy, tags.numbers(self.blobs, self.keys, self.session_id))
        kept |= set(numbers[-1:])
        if not damaged:
            kept.update(unreadable)
        limit = garbage.prunable(self.store, self.pool, self.keys, self.session_id)
        gone = [n for n in numbers if n not in kept and (limit is None or n <= limit)]
        for number in gone if not dry else ():
            self.blobs.delete(manifest_key(number))
        return gone

    def load_all(
        self, numbers: list[int]
    ) -> Iterator[tuple[int, Manifest | Damaged | UnknownFormat | NotFound]]:
        """The manifests of these numbers, a few at once, or why one cannot be read."""

        def load(number: int) -> Manifest | Damaged | UnknownFormat | NotFound:
            try:
                return self.load(number)
            except (Damaged, UnknownFormat, NotFound) as error:
                return error

        # A manifest names all packs; only as many are in memory as there are threads.
        with ThreadPoolExecutor(_LOADERS, "manifests") as pool:
            ahead = deque(pool.submit(load, number) for number in numbers[:_LOADERS])
            for at, number in enumerate(numbers, _LOADERS):
                found = ahead.popleft().result()
                if at < len(numbers):
                    ahead.append(pool.submit(load, numbers[at]))
                yield number, found

    def verify(self, manifest: Manifest) -> None:
        """Read every byte of the manifest's packs. Raises `Damaged`, naming what is not intact."""
        roots = set(manifest.body.roots())
        with ThreadPoolExecutor(3, "verify") as pool:
            check = partial(verify_pack, self.blobs, self.keys)
            for names in pool.map(check, manifest.packs):
                roots.difference_update(names)
        for root in roots:
            raise Damaged(f"Chunk {root.hex()}", "no pack of the checkpoint holds it")

    def writer(self, base: Manifest | None) -> Writer:
        """A writer that goes on from `base`."""
        return Writer(self.blobs, self.keys, () if base is None else base.packs)

    def reader(self, manifest: Manifest) -> Reader:
        """A reader of the chunks of `manifest`."""
        return Reader(self.blobs, self.keys, manifest.packs)

    def _refuse_stale(self, manifest: Manifest, newest: int) -> None:
        try:
            before = self.load(newest) if newest else None
        except (Damaged, UnknownFormat, NotFound):
            return
        if before is not None and DELETED in before.meta:
            raise SessionDeleted(self.session_id)
        if before is not None and before.epoch > manifest.epoch:
            raise StaleWriter(self.session_id, newest, before.epoch)

    def _refuse_unless_same(self, manifest: Manifest) -> None:
        try:
            if self.load(manifest.number) == manifest:
                return
        except (Damaged, UnknownFormat, NotFound):
            pass  # NotFound: it was pruned, long after others went on
        numbers = self.numbers()
        if not numbers:
            raise SessionDeleted(self.session_id)
        raise StaleWriter(self.session_id, numbers[-1], self._epoch(numbers[-1]))

    def _epoch(self, number: int) -> int | None:
        """The epoch of a manifest; None when it cannot be read."""
        try:
            return self.load(number).epoch
        except (Damaged, UnknownFormat, NotFound):
            return None


def manifest_key(number: int) -> str:
    """Where a manifest is in its session's part of the store."""
    return f"manifests/{number:08d}"


def checked(session_id: str) -> str:
    """`session_id` itself. Raises `ValueError` when it is not a valid one."""
    if not _SESSION_ID.fullmatch(session_id):
        raise ValueError(f"not a valid session id: {session_id!r}")
    return session_id


def _key(session_id: str) -> str:
    return f"sessions/{checked(session_id)}/key"
