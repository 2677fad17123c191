"""The seam: what a checkpoint needs of a blob store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

Buffer = bytes | bytearray | memoryview

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class BlobStore(Protocol):
    """What a checkpoint needs of a store. Thread-safe; every method may raise `StoreError`s."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes from `start` on, at most `length` of them; fewer where it ends.

        Raises `NotFound`.
        """

    def put(self, key: str, data: Buffer) -> None:
        """Write the object, replacing what was there. Atomic, and durable on return."""

    def create(self, key: str, data: Buffer) -> None:
        """Write the object only if there is none. Atomic, and durable on return.

        Of several callers at once exactly one succeeds. Raises `AlreadyExists`.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """All keys that start with `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""


def check_key(key: str) -> str:
    """`key` itself. Raises `ValueError` when it is not a valid key."""
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise ValueError(f"not a valid object key: {key!r}")
    return key
