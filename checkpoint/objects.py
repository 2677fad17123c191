"""Objects: byte strings of any length, as chunks.

The root chunk begins with a level byte: 0, and the content follows; n > 0, and the ids of chunks
of level n - 1 follow, whose contents make up this one. A small object is one chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from checkpoint.blobs import Buffer
from checkpoint.chunks import ID_BYTES
from checkpoint.errors import Damaged
from checkpoint.reader import Reader
from checkpoint.writer import Writer

PIECE = 256 << 10
_FANOUT = 4096


class StoredObject(NamedTuple):
    """An object in the repository: its root chunk, and all its chunks (the root too)."""

    id: bytes
    chunks: tuple[bytes, ...]


def store_object(writer: Writer, data: Buffer) -> StoredObject:
    """Store `data`; equal data gives the same chunks."""
    view = memoryview(data).cast("B")
    pieces = [view[start : start + PIECE] for start in range(0, len(view), PIECE)] or [view]
    names = [writer.add(b"".join((b"\0", piece))) for piece in pieces]
    return _store_levels(writer, names)


def store_list(writer: Writer, names: Sequence[bytes]) -> StoredObject:
    """Store a list of chunk ids, for `load_list`; equal stretches of it are equal chunks."""
    step = 1024
    pieces = [b"\0" + b"".join(names[at : at + step]) for at in range(0, len(names), step)]
    return _store_levels(writer, [writer.add(piece) for piece in pieces or [b"\0"]])


def _store_levels(writer: Writer, names: list[bytes]) -> StoredObject:
    chunks = list(names)
    level = 0
    while len(names) > 1:
        level += 1
        groups = [names[at : at + _FANOUT] for at in range(0, len(names), _FANOUT)]
        names = [writer.add(bytes([level]) + b"".join(group)) for group in groups]
        chunks += names
    return StoredObject(names[0], tuple(chunks))


def load_objects(reader: Reader, roots: Iterable[bytes]) -> list[bytes]:
    """The contents of several objects, in order. Raises `Damaged`, and what the store raises."""
    return [_assemble(reader, data) for data in reader.read(roots)]


def load_object(reader: Reader, root: bytes) -> bytes:
    """The content of an object. Raises `Damaged`, and what the store raises."""
    return _assemble(reader, reader.one(root))


def load_list(reader: Reader, root: bytes) -> list[bytes]:
    """The chunk ids of a stored list."""
    return split_ids(load_object(reader, root))


def object_chunks(reader: Reader, root: bytes) -> list[bytes]:
    """All chunks of an object."""
    chunks, names = [root], [root]
    while names:
        parts = list(reader.read(names))
        names = [name for part in parts if part[:1] > b"\0" for name in split_ids(part[1:])]
        chunks += names
        if parts[0][:1] == b"\1":
            break  # what is named now is content
    return chunks


def _assemble(reader: Reader, data: bytes) -> bytes:
    while data[:1] > b"\0":
        level = data[0]
        parts = list(reader.read(split_ids(data[1:])))
        if any(part[:1] != bytes([level - 1]) for part in parts):
            raise Damaged("An object of the checkpoint", "its parts are not of one level")
        data = bytes([level - 1]) + b"".join([part[1:] for part in parts])
    return data[1:]


def split_ids(data: bytes) -> list[bytes]:
    """Chunk ids, back to back. Raises `Damaged`."""
    if len(data) % ID_BYTES:
        raise Damaged("A list of chunk ids", "its length is not a multiple of an id's")
    return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]
