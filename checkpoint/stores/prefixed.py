"""A part of a store."""

from __future__ import annotations

from collections.abc import Iterator

from checkpoint.stores.protocol import BlobStore, Buffer


class Prefixed:
    """The part of another store below `prefix` (which ends with `/`), as a store of its own."""

    def __init__(self, store: BlobStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self.store.get(self.prefix + key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        self.store.put(self.prefix + key, data)

    def create(self, key: str, data: Buffer) -> None:
        self.store.create(self.prefix + key, data)

    def list(self, prefix: str) -> Iterator[str]:
        for key in self.store.list(self.prefix + prefix):
            yield key[len(self.prefix) :]

    def delete(self, key: str) -> None:
        self.store.delete(self.prefix + key)
