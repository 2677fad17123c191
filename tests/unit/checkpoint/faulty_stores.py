"""Stores with faults, for the tests of this directory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from checkpoint.blobs import BlobStore, Buffer, Memory
from checkpoint.errors import StoreUnavailable


class DyingStore:
    """Passes `operations` writes on, then fails all; the first that fails may be done yet."""

    def __init__(self, store: BlobStore, operations: int, *, failed_is_done: bool = False) -> None:
        self.store = store
        self.left = operations
        self.failed_is_done = failed_is_done
        self._lock = threading.Lock()

    def _dies(self) -> bool:
        with self._lock:
            self.left -= 1
            return self.left < 0

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self.store.get(key, start, length)

    def list(self, prefix: str) -> Iterator[str]:
        return self.store.list(prefix)

    def put(self, key: str, data: Buffer) -> None:
        self._do(lambda: self.store.put(key, data))

    def create(self, key: str, data: Buffer) -> None:
        self._do(lambda: self.store.create(key, data))

    def delete(self, key: str) -> None:
        self._do(lambda: self.store.delete(key))

    def _do(self, write: Callable[[], None]) -> None:
        dies = self._dies()
        if not dies or (self.failed_is_done and self.left == -1):
            write()
        if dies:
            raise StoreUnavailable("The store does not answer: it died.")


class CountingStore(Memory):
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[str] = []
        self.read: list[tuple[str, int]] = []

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(key, start, length)
        self.read.append((key, len(data)))
        return data

    def create(self, key: str, data: Buffer) -> None:
        super().create(key, data)
        self.created.append(key)
