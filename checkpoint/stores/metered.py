"""What was asked of a store, in numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from checkpoint.stores.protocol import BlobStore, Buffer

OPERATIONS = ("get", "put", "create", "list", "delete")


@dataclass
class Figures:
    """Of one kind of operation, since the beginning."""

    calls: int = 0
    """Ended, well or not."""
    errors: int = 0
    """Ended with an exception; `NotFound` and `AlreadyExists` are among them."""
    bytes: int = 0
    """Of content, read or written by those that ended well."""
    seconds: float = 0.0
    """All of them together; those at the same time count each."""


class Metered:
    """Another store, with what is asked of it counted."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._figures = {name: Figures() for name in OPERATIONS}
        self._lock = threading.Lock()

    def figures(self) -> dict[str, Figures]:
        """A copy of the figures by operation: `get`, `put`, `create`, `list`, `delete`."""
        with self._lock:
            return {name: replace(figures) for name, figures in self._figures.items()}

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._measured("get") as done:
            data = self.store.get(key, start, length)
            done.bytes = len(data)
        return data

    def put(self, key: str, data: Buffer) -> None:
        with self._measured("put") as done:
            self.store.put(key, data)
            done.bytes = len(data)

    def create(self, key: str, data: Buffer) -> None:
        with self._measured("create") as done:
            self.store.create(key, data)
            done.bytes = len(data)

    def list(self, prefix: str) -> Iterator[str]:
        """As the store does. What the caller does between two keys is not counted as time."""
        with self._measured("list") as done:
            keys = iter(self.store.list(prefix))
            while True:
                begin = time.perf_counter()
                key = next(keys, None)
                done.seconds += time.perf_counter() - begin
                if key is None:
                    return
                yield key

    def delete(self, key: str) -> None:
        with self._measured("delete"):
            self.store.delete(key)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[Figures]:
        """Adds what the block leaves in the figures given; the block's time unless it says."""
        done = Figures(calls=1)
        begin = time.perf_counter()
        try:
            yield done
        except GeneratorExit:  # a list that nobody wanted to the end
            raise
        except BaseException:
            done.errors = 1
            raise
        finally:
            done.seconds = done.seconds or time.perf_counter() - begin
            with self._lock:
                total = self._figures[operation]
                total.calls += done.calls
                total.errors += done.errors
                total.bytes += done.bytes
                total.seconds += done.seconds
