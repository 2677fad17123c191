"""Another store that can be made to stand still: for work that gives way to other work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from checkpoint.stores.protocol import BlobStore, Buffer


class Ended(Exception):
    """The store was closed for good while, or before, something was asked of it."""


class Pausable:
    """Another store. While it is paused, whatever is asked of it waits; what the store was asked
    before is answered. After `end` every call raises `Ended`, those that wait too.
    """

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._goes = threading.Event()
        self._goes.set()
        self._ended = False

    def pause(self) -> None:
        self._goes.clear()

    def resume(self) -> None:
        self._goes.set()

    def end(self) -> None:
        self._ended = True
        self._goes.set()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._when_it_goes().get(key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        self._when_it_goes().put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._when_it_goes().create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self._when_it_goes().list(prefix)

    def delete(self, key: str) -> None:
        self._when_it_goes().delete(key)

    def _when_it_goes(self) -> BlobStore:
        self._goes.wait()
        if self._ended:
            raise Ended
        return self.store
