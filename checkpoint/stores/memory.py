"""Objects in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from checkpoint.errors import AlreadyExists, NotFound
from checkpoint.stores.protocol import Buffer, check_key


class Memory:
    """A store in this process's memory, for tests."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self.objects.get(check_key(key))
        if data is None:
            raise NotFound(key)
        return data[start:] if length is None else data[start : start + length]

    def put(self, key: str, data: Buffer) -> None:
        self.objects[check_key(key)] = bytes(data)

    def create(self, key: str, data: Buffer) -> None:
        with self._lock:
            if check_key(key) in self.objects:
                raise AlreadyExists(key)
            self.objects[key] = bytes(data)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in list(self.objects) if key.startswith(prefix)))

    def delete(self, key: str) -> None:
        self.objects.pop(check_key(key), None)
