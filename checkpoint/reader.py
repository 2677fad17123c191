"""Reading chunks: few range requests, several at once, never much in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Self

from checkpoint.blobs import BlobStore
from checkpoint.chunks import unseal
from checkpoint.errors import Damaged
from checkpoint.keys import SessionKeys
from checkpoint.pack_index import PackIndex
from checkpoint.packs import PackRef
from checkpoint.runs import Run, plan, read_sealed

_WINDOW_BYTES = 8 << 20


class Reader:
    """Gives the content of chunks that the packs of one checkpoint hold.

    Thread-safe. Holds about `threads` × 16 MiB at most. Every method that reads raises `Damaged`,
    naming pack and chunk, and what the store raises.
    """

    def __init__(
        self,
        store: BlobStore,
        keys: SessionKeys,
        packs: Iterable[PackRef],
        *,
        index: PackIndex | None = None,
        threads: int = 4,
    ) -> None:
        """`store` is the session's part of a store (`Repository.blobs`); `index` may be shared."""
        self.keys = keys
        self.index = index or PackIndex(store, keys)
        self.index.load(packs)
        self._store = store
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "chunk-reader")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def size(self, name: bytes) -> int:
        """Length of the chunk's content in bytes."""
        return self.index.locate(name).plain

    def one(self, name: bytes) -> bytes:
        """The content of one chunk."""
        location = self.index.locate(name)
        run = Run(location.pack, location.offset, location.length, [(name, location)])
        return next(data for _, data in self._read_run(run))

    def read(self, names: Iterable[bytes]) -> Iterator[bytes]:
        """The contents of the chunks, in the order asked for."""
        ahead: deque[Future[list[bytes]]] = deque()
        try:
            for window in self._windows(names):
                ahead.append(self._pool.submit(self._read_window, window))
                if len(ahead) > self._threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def each(self, names: Iterable[bytes], do: Callable[[bytes, bytes], None]) -> None:
        """Call `do(id, content)` once per distinct chunk, in any order, from several threads."""
        failed = threading.Event()

        def work(run: Run) -> None:
            if failed.is_set():
                return
            try:
                for name, data in self._read_run(run):
                    do(name, data)
            except BaseException:
                failed.set()
                raise

        futures = [self._pool.submit(work, run) for run in plan(self.index, dict.fromkeys(names))]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        wait(futures)
        for future in [*done, *futures]:
            future.result()

    def _windows(self, names: Iterable[bytes]) -> Iterator[list[bytes]]:
        window: list[bytes] = []
        size = 0
        for name in names:
            window.append(name)
            size += self.index.locate(name).plain
            if size >= _WINDOW_BYTES or len(window) >= 4096:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _read_window(self, window: list[bytes]) -> list[bytes]:
        content = {
            name: data
            for run in plan(self.index, dict.fromkeys(window))
            for name, data in self._read_run(run)
        }
        return [content[name] for name in window]

    def _read_run(self, run: Run) -> Iterator[tuple[bytes, bytes]]:
        for name, location, sealed in read_sealed(self._store, run):
            what = f"Chunk {name.hex()} in pack {location.pack.id.hex()}"
            data = unseal(self.keys, name, sealed, what)
            if len(data) != location.plain:
                raise Damaged(what, "its length differs from the pack's index")
            yield name, data
