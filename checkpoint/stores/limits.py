"""Not more than so much at once, or per second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from checkpoint.stores.protocol import BlobStore, Buffer


class BandwidthLimited:
    """Another store, read and written at no more than so many bytes per second on average.

    All threads share the limits; None is no limit. What one call transfers goes at one go, as it
    must be of one moment; it is the next call that waits until those bytes are paid for.
    """

    def __init__(
        self, store: BlobStore, *, read: float | None = None, write: float | None = None
    ) -> None:
        if any(rate is not None and rate <= 0 for rate in (read, write)):
            raise ValueError("a bandwidth limit is more than 0 bytes per second")
        self.store = store
        self._read = None if read is None else _Budget(read)
        self._write = None if write is None else _Budget(write)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self.store.get(key, start, length)
        if self._read is not None:
            self._read.spend(len(data))
        return data

    def put(self, key: str, data: Buffer) -> None:
        self._before_writing(data)
        self.store.put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._before_writing(data)
        self.store.create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)

    def _before_writing(self, data: Buffer) -> None:
        if self._write is not None:
            self._write.spend(len(data))


class _Budget:
    """Bytes per second, shared: whoever spends waits until what others spent before is earned."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._earned_at = 0.0  # monotonic time at which all that was spent is earned
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._earned_at)
            self._earned_at = begin + size / self._rate
        if begin > now:
            time.sleep(begin - now)


class ConcurrencyLimited:
    """Another store, with at most `operations` under way at once; further ones wait."""

    def __init__(self, store: BlobStore, operations: int) -> None:
        if operations < 1:
            raise ValueError("at least one operation must be possible at once")
        self.store = store
        self._room = threading.BoundedSemaphore(operations)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._room:
            return self.store.get(key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        with self._room:
            self.store.put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        with self._room:
            self.store.create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        # All at once: a caller that deletes what it is told of would wait for itself.
        with self._room:
            return iter([*self.store.list(prefix)])

    def delete(self, key: str) -> None:
        with self._room:
            self.store.delete(key)
