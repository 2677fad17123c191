"""Objects: byte strings of any length, as chunks.

The root chunk begins with a level byte: 0, and the content follows; n > 0, and the ids of chunks
of level n - 1 follow, whose contents make up this one. A small object is one chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from checkpoint.blobs import Buffer
from checkpoint.chunks import ID_BYTES
from checkpoint.errors import Damaged
from checkpoint.reader import Reader
from checkpoint.writer import Writer

PIECE = 256 << 10
MAX_OBJECT = 4 << 30  # a few chunks that name each other often would unfold to any size
_FANOUT = 4096


class StoredObject(NamedTuple):
    """An object in the repository: its root chunk, and all its chunks (the root too)."""

    id: bytes
    chunks: tuple[bytes, ...]


class Chunks(Protocol):
    """Where the chunks of an object come from, in order: a `Reader`."""

    def read(self, names: Iterable[bytes]) -> Iterator[bytes]: ...
    def size(self, name: bytes) -> int: ...


class ObjectWriter:
    """Stores an object of which there is never more in memory than `piece` bytes and a list or two
    of chunk ids. The chunks are those of `store_object`, unless `piece`, at most `PIECE`, is less.
    """

    def __init__(self, writer: Writer, piece: int = PIECE) -> None:
        self._writer = writer
        self._size = piece
        self._piece = bytearray()
        self._names: list[list[bytes]] = [[]]  # by level

    def write(self, data: Buffer) -> None:
        """Append to the object. Raises what the store raises."""
        self._piece += data
        while len(self._piece) > self._size:
            self._add(0, bytes(memoryview(self._piece)[: self._size]))
            del self._piece[: self._size]

    def close(self) -> bytes:
        """Its root chunk. Raises what the store raises."""
        self._add(0, bytes(self._piece))
        level = 0
        while level + 1 < len(self._names) or len(self._names[level]) > 1:
            self._close_group(level)
            level += 1
        return self._names[level][0]

    def _add(self, level: int, content: bytes) -> None:
        if level == len(self._names):
            self._names.append([])
        if len(self._names[level]) == _FANOUT:
            self._close_group(level)
        self._names[level].append(self._writer.add(bytes([level]) + content))

    def _close_group(self, level: int) -> None:
        names, self._names[level] = self._names[level], []
        self._add(level + 1, b"".join(names))


def stream_objects(chunks: Chunks, roots: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Several objects, in order: the content of each in pieces, to be used before the next one.

    Raises `Damaged`, also in the middle of it, and what the store raises.
    """
    for data in chunks.read(roots):
        yield _Unfolding(chunks).of(data)


class _Unfolding:
    """Reads one object, however it claims to be made."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._sizes = [0] * 256

    def of(self, data: bytes) -> Iterator[bytes]:
        level = data[0] if data else 0
        if not level:
            yield data[1:]
            return
        names = split_ids(data[1:])
        self._sizes[level] += sum(map(self._chunks.size, names))
        if self._sizes[level] > MAX_OBJECT:
            raise Damaged("An object of the checkpoint", f"it has more than {MAX_OBJECT} bytes")
        for part in self._chunks.read(names):
            if part[:1] != bytes([level - 1]):
                raise Damaged("An object of the checkpoint", "its parts are not of one level")
            yield from self.of(part)


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


def load_stored(reader: Reader, roots: Iterable[bytes]) -> Iterator[tuple[bytes, StoredObject]]:
    """Several objects, in order, as they arrive: content, and what they are made of.

    Raises `Damaged`, and what the store raises.
    """
    roots = list(roots)
    for root, data in zip(roots, reader.read(roots), strict=True):
        yield _assemble(reader, root, data)


def load_object(reader: Reader, root: bytes) -> bytes:
    """The content of an object. Raises `Damaged`, and what the store raises."""
    return _assemble(reader, root, reader.one(root))[0]


def load_list(reader: Reader, root: bytes) -> list[bytes]:
    """The chunk ids of a stored list."""
    return split_ids(load_object(reader, root))


def _assemble(reader: Reader, root: bytes, data: bytes) -> tuple[bytes, StoredObject]:
    chunks = [root]
    while data[:1] > b"\0":
        below = bytes([data[0] - 1])
        names = split_ids(data[1:])
        if sum(map(reader.size, names)) > MAX_OBJECT:
            raise Damaged("An object of the checkpoint", f"it has more than {MAX_OBJECT} bytes")
        chunks += names
        parts = list(reader.read(names))
        if any(part[:1] != below for part in parts):
            raise Damaged("An object of the checkpoint", "its parts are not of one level")
        data = below + b"".join([part[1:] for part in parts])
    return data[1:], StoredObject(root, tuple(chunks))


def split_ids(data: bytes) -> list[bytes]:
    """Chunk ids, back to back. Raises `Damaged`."""
    if len(data) % ID_BYTES:
        raise Damaged("A list of chunk ids", "its length is not a multiple of an id's")
    return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]
