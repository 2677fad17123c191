"""Small sealed objects: tags, fork markers, lists of garbage, word of who runs a session.

Stored form: magic (4 bytes) | version u8 | nonce 12 | AES-256-GCM, where the seal binds the magic,
the version and what the object is. Kinds and contents: `docs/checkpoint-format.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.keys import SessionKeys

_VERSION = 1


@dataclass(frozen=True)
class Kind:
    """A kind of object: four bytes it begins with, and its name in messages."""

    magic: bytes
    noun: str

    def encode(self, keys: SessionKeys, plain: bytes, context: str) -> bytes:
        """The object as it is stored; `context` says which one it is."""
        head = self.magic + bytes([_VERSION])
        return head + b"".join(keys.sealer.seal(plain, head + context.encode()))

    def decode(self, keys: SessionKeys, data: bytes, context: str, what: str) -> bytes:
        """Inverse of `encode`. Raises `Damaged` and `UnknownFormat`, naming `what`."""
        head = data[: len(self.magic) + 1]
        if not data.startswith(self.magic) or len(head) != len(self.magic) + 1:
            raise Damaged(what, f"it does not begin as {self.noun}")
        if head[-1] > _VERSION:
            raise UnknownFormat(what, head[-1], _VERSION)
        return keys.sealer.open(memoryview(data)[len(head) :], head + context.encode(), what)


TAG = Kind(b"SKTG", "a tag")
FORK = Kind(b"SKFK", "a fork marker")
GARBAGE = Kind(b"SKGB", "a list of garbage")
HOLDER = Kind(b"SKHO", "word of who runs a session")
LABEL = Kind(b"SKLB", "a session's label")
