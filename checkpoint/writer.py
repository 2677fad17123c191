"""Writing chunks: what the session already holds is not written again; the rest goes up in packs.

A `Writer` lives as long as the session is on its node and makes one checkpoint after the other:
every chunk of a checkpoint is named by `add` or `keep`, then `finish` gives the packs that hold
them. Until a manifest names those packs nothing of it is part of a checkpoint, so failing anywhere
loses nothing that was committed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Self

from checkpoint.blobs import BlobStore, Buffer
from checkpoint.buffers import Buffers
from checkpoint.chunks import MAX_CHUNK, chunk_id, seal, unseal
from checkpoint.errors import AlreadyExists
from checkpoint.keys import SessionKeys
from checkpoint.pack_index import Numbers, PackIndex
from checkpoint.packs import (
    PACK_CHUNKS,
    PACK_TARGET,
    Location,
    PackRef,
    encode_pack,
    read_index,
)
from checkpoint.runs import plan_located, read_sealed

_UPLOADS = 3
_SEAL_INLINE = 8 << 10  # below this, handing it to a thread costs more than sealing it
_PACK_ROOM = PACK_TARGET + (512 << 10)  # for any full one, so that the next can have it too
_BUFFERED = 64 << 20  # bytes kept while a checkpoint is under way
_SLACK = 8 << 20  # waste up to this is not worth rewriting anything for
_REWRITE_BYTES = 64 << 20  # of live chunks, at most, per checkpoint
_SMALL_PACK = 1 << 20
_MANY_SMALL = 64
_rounds = count()


Sealed = bytes | Future[memoryview]
"""A sealed chunk, or one that is being sealed: a future weighs more than most small chunks."""


class Writer:
    """Adds chunks to a session. Thread-safe; holds at most about 64 MiB of what is on its way, and
    of what the session holds one bit per chunk (`checkpoint.pack_index` is on disk).

    An error gives up the checkpoint under way; the next `add` begins a new one, which uses the
    packs already stored. After an error of `add` or `keep` call `abort`: where that was forgotten,
    the next `finish` fails once, so that no checkpoint lacks what was added before the error.
    """

    def __init__(
        self,
        store: BlobStore,
        keys: SessionKeys,
        packs: Iterable[PackRef] = (),
        *,
        threads: int = 2,
    ) -> None:
        """`store` is the session's part of a store; `packs` those of the checkpoint to go on from.

        Reads their indices: raises `Damaged`, and what the store raises.
        """
        self.keys = keys
        self.index = PackIndex(store, keys)
        self.index.load(packs)
        self.written_bytes = 0  # of packs, since this writer was made
        self.round = 0
        """Another number, in this process, once chunks may have been forgotten: what `holds` said
        is true as long as this is the same."""
        self._store = store
        self._sealers = ThreadPoolExecutor(threads, "chunk-sealer")
        self._uploaders = ThreadPoolExecutor(_UPLOADS, "pack-upload")
        self._room = threading.BoundedSemaphore(_UPLOADS)
        self._buffers = Buffers(_BUFFERED)
        self._lock = threading.Lock()
        self._given_up: BaseException | None = None
        self._uploads: list[Future[None]] = []
        self._begin()

    def _begin(self) -> None:
        self.round = next(_rounds)
        self._live = Numbers()
        self._fresh: set[bytes] = set()  # on their way
        self._open = _OpenPack()
        self._buffers.clear()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the checkpoint under way and end the threads."""
        self.abort()
        self._sealers.shutdown(wait=True)
        self._uploaders.shutdown(wait=True)

    def holds(self, names: Iterable[bytes]) -> bool:
        """Whether all these chunks are stored or on their way, so that they may be kept."""
        try:
            for _ in self.index.numbers(self._stored(names)):
                pass
        except KeyError:
            return False
        return True

    def _stored(self, names: Iterable[bytes]) -> Iterator[bytes]:
        fresh = self._fresh
        return (name for name in names if name not in fresh)

    def add(self, data: Buffer, sealed: Callable[[], None] | None = None) -> bytes:
        """Store at most `MAX_CHUNK` bytes as a chunk; its id.

        `data` must not change until `finish`, or until `sealed` is called, in any thread.
        Raises what the store raises, also for chunks added before.
        """
        if len(data) > MAX_CHUNK:
            raise ValueError(f"a chunk has at most {MAX_CHUNK} bytes, not {len(data)}")
        name = chunk_id(self.keys, data)
        with self._lock:
            self._give_up_on_failure()
            under_way: Sealed = b""
            if name not in self._fresh:
                number = self.index.number(name)
                if number is not None:
                    self._live.update((number,))
                else:
                    self._fresh.add(name)
                    under_way = self._sealed(name, data)
                    self._append(name, under_way, len(data))
        if sealed is not None and isinstance(under_way, Future):
            under_way.add_done_callback(lambda _: sealed())
        elif sealed is not None:
            sealed()
        return name

    def keep(self, names: Iterable[bytes]) -> None:
        """Say that these chunks, which the session holds, are part of this checkpoint too.

        Raises `ValueError` for a chunk that it does not hold (see `holds`).
        """
        with self._lock:
            self._give_up_on_failure()
            try:
                self._live.update(self.index.numbers(self._stored(names)))
            except KeyError as error:
                missing = error.args[0].hex()
                raise ValueError(f"chunk {missing} is not in this session's packs") from None

    def finish(self) -> tuple[PackRef, ...]:
        """Wait until every chunk is durable; the packs that hold the chunks of this checkpoint.

        Packs of which little is live are replaced, a bounded amount per checkpoint, so that at
        most about half of what the packs hold is waste. Raises `Damaged` when a pack to be
        replaced is, and what the store raises.
        """
        try:
            if self._given_up is not None:
                raise self._given_up
            with self._lock:
                self._close_pack()
            self._settle()
            self._rewrite()
        except BaseException:
            self.abort()
            raise
        packs = tuple(self._live_bytes())
        dead = set(self.index.packs).difference(packs)
        self.index.forget(dead)
        self._uploads = []
        self._begin()
        return packs

    def abort(self) -> None:
        """Give up the checkpoint under way. What was stored of it serves the next one."""
        for upload in self._uploads:
            upload.exception()
        with self._lock:
            self._uploads = []
            self._given_up = None
            self._begin()

    def _sealed(self, name: bytes, data: Buffer) -> Sealed:
        if len(data) >= _SEAL_INLINE:
            return self._sealers.submit(seal, self.keys, name, data, self._buffers.take)
        return bytes(seal(self.keys, name, data))

    def _append(self, name: bytes, sealed: Sealed, plain: int) -> None:
        self._open.append(name, sealed, plain)
        if self._open.reaches(PACK_TARGET) or len(self._open.chunks) >= PACK_CHUNKS:
            self._close_pack()

    def _close_pack(self) -> None:
        if not self._open.chunks:
            return
        chunks, self._open = self._open.chunks, _OpenPack()
        self._room.acquire()
        upload = self._uploaders.submit(self._upload, chunks, self._live, self._fresh)
        self._uploads.append(upload)

    def _upload(
        self, chunks: list[tuple[bytes, Sealed, int]], live: Numbers, fresh: set[bytes]
    ) -> None:
        try:
            sealed = [
                (name, one if isinstance(one, bytes) else one.result(), plain)
                for name, one, plain in chunks
            ]
            chunks.clear()
            ref, entries, data = encode_pack(self.keys, sealed, self._take_for_pack)
            for _, one, _ in sealed:
                if isinstance(one, memoryview):
                    self._buffers.give(one)
            sealed.clear()
            with contextlib.suppress(AlreadyExists):  # an earlier attempt did arrive
                self._store.create(ref.key, data)
            self._buffers.give(data)
            self.index.add(ref, entries)
            names = [entry.id for entry in entries]
            live.update(self.index.numbers(names))
            fresh.difference_update(names)
            self.written_bytes += ref.size
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._room.release()

    def _take_for_pack(self, size: int) -> memoryview:
        full = size >= PACK_TARGET
        return self._buffers.take(max(size, _PACK_ROOM) if full else size)[:size]

    def _settle(self) -> None:
        for upload in self._uploads:
            upload.exception()
        self._raise_failure()

    def _give_up_on_failure(self) -> None:
        if self._failure is not None:
            self._given_up = self._failure
            self._begin()
            raise self._given_up

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _live_bytes(self) -> dict[PackRef, int]:
        """Sealed bytes of this checkpoint's chunks per pack; packs without any are left out."""
        live: dict[PackRef, int] = {}
        for number, pack, length in self.index.rows():
            if number in self._live:
                live[pack] = live.get(pack, 0) + length
        return dict(sorted(live.items()))

    def _rewrite(self) -> None:
        for ref in sorted(choose_rewrites(self._live_bytes())):
            self._rewrite_pack(ref)
        with self._lock:
            self._close_pack()
        self._settle()

    def _rewrite_pack(self, ref: PackRef) -> None:
        located = []
        for name, *where in read_index(self._store, self.keys, ref):
            number = self.index.number(name)
            if number is not None and number in self._live:
                location = Location(ref, *where)
                if self.index.locate(name) == location:  # else another pack has it
                    located.append((name, location))
        for run in plan_located(located):
            for name, location, sealed in read_sealed(self._store, run):
                what = f"Chunk {name.hex()} in pack {ref.id.hex()}"
                unseal(self.keys, name, sealed, what)  # never carry damage on
                with self._lock:
                    self._raise_failure()
                    self._append(name, bytes(sealed), location.plain)


def choose_rewrites(live: dict[PackRef, int]) -> set[PackRef]:
    """The packs to replace, given the live bytes in each.

    Those of which the least is live, while more than half of all bytes is waste; and the small
    ones when there are many. At most `_REWRITE_BYTES` of live bytes.
    """
    total = sum(live.values())
    waste = sum(ref.size for ref in live) - total
    budget = _REWRITE_BYTES
    chosen: set[PackRef] = set()
    for ref in sorted(live, key=lambda ref: live[ref] / ref.size):
        if waste <= total + _SLACK or budget < live[ref]:
            break
        chosen.add(ref)
        budget -= live[ref]
        waste -= ref.size - live[ref]
    small = [ref for ref in live if live[ref] < _SMALL_PACK and ref not in chosen]
    if len(small) > _MANY_SMALL:
        for ref in sorted(small, key=lambda ref: live[ref]):
            if budget < live[ref]:
                break
            chosen.add(ref)
            budget -= live[ref]
    return chosen


class _OpenPack:
    """A pack being filled; chunks not sealed yet count with their plain size."""

    def __init__(self) -> None:
        self.chunks: list[tuple[bytes, Sealed, int]] = []
        self._sealed = 0
        self._pending: deque[tuple[Future[memoryview], int]] = deque()
        self._pending_bytes = 0

    def append(self, name: bytes, sealed: Sealed, plain: int) -> None:
        self.chunks.append((name, sealed, plain))
        if isinstance(sealed, bytes):
            self._sealed += len(sealed)
            return
        self._pending.append((sealed, plain))
        self._pending_bytes += plain

    def reaches(self, size: int) -> bool:
        """Whether it has so many bytes."""
        if self._sealed + self._pending_bytes < size:
            return False
        while self._pending and self._pending[0][0].done():
            sealed, plain = self._pending.popleft()
            self._sealed += len(sealed.result())
            self._pending_bytes -= plain
        return self._sealed + self._pending_bytes >= size
