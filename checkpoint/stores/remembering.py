"""A store that is asked the same several times: what is small comes from memory then."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from checkpoint.stores.protocol import BlobStore, Buffer

WHOLE = 1 << 20
"""A part that ends within so many bytes is fetched with all that is before it: the request costs
more than they do, and the next one is for them as a rule (a small pack's index, then its chunks).
"""

SMALL = 64 << 10
"""Bytes of a part that is remembered wherever it is, as the index of a large pack."""

ROOM = 8 << 20
"""Bytes that are remembered; what comes later is not."""


class Remembering:
    """Another store whose packs, which never change, are not asked for twice until :meth:`forget`.

    Several readers of one checkpoint ask for the same indices of the same packs. Through a gateway
    each of these requests costs some three thousandths of a second of a processor.
    """

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._beginnings: dict[str, bytes] = {}
        self._parts: dict[tuple[str, int, int], bytes] = {}
        self._left = ROOM
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Remember nothing from now on."""
        with self._lock:
            self._left = 0
            self._beginnings.clear()
            self._parts.clear()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length is None or not key.startswith("packs/"):
            return self.store.get(key, start, length)
        end = start + length
        known = self._beginnings.get(key, b"")
        if end <= len(known):
            return known[start:end]
        if end <= min(WHOLE, self._left):
            known = self.store.get(key, 0, end)
            with self._lock:
                if len(known) <= self._left:
                    self._left -= len(known)
                    self._beginnings[key] = known
            return known[start:end]
        part = self._parts.get((key, start, length))
        if part is None:
            part = self.store.get(key, start, length)
            with self._lock:
                if length <= min(SMALL, self._left):
                    self._left -= length
                    self._parts[key, start, length] = part
        return part

    def put(self, key: str, data: Buffer) -> None:
        self.store.put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self.store.create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self.store.delete(key)
