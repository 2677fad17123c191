"""Packs: many sealed chunks in one object, so that a session is not a million.

`packs/<id>` = sealed chunks, back to back | sealed index | footer.
Index (sealed): per chunk id 32 | sealed length u32 | plain length u32, in the order of the chunks.
Footer: magic `SKPK` | version u32 | index length u32 | number of chunks u32,
little-endian. A pack is named by the keyed BLAKE3 of its bytes: writing it twice is harmless, and
every bit is checked.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from checkpoint.blobs import BlobStore, Buffer
from checkpoint.buffers import fresh
from checkpoint.chunks import ID_BYTES, chunk_id, unseal
from checkpoint.errors import Damaged, NotFound, UnknownFormat
from checkpoint.keys import NONCE_BYTES, SEAL_OVERHEAD, SessionKeys

PACK_ID_BYTES = 16
# Sealed bytes after which a pack is closed; it ends up larger by one chunk and the index at most.
PACK_TARGET = 8 << 20
# Chunks after which it is closed too: in memory a small one takes ten times what it has in a pack.
# Enough for 1 MiB of the smallest, so that such packs do not count as small ones (`Writer`).
PACK_CHUNKS = 32 << 10

_STRETCH = 4 << 20
_MAGIC = b"SKPK"
_VERSION = 1
_FOOTER = struct.Struct("<4sIII")
_ENTRY = struct.Struct(f"<{ID_BYTES}sII")
_CONTEXT = b"pack index 1"


class PackRef(NamedTuple):
    """How a manifest names a pack: enough to read its index with one range request."""

    id: bytes
    size: int
    index_size: int

    @property
    def key(self) -> str:
        return f"packs/{self.id.hex()}"


class Entry(NamedTuple):
    """One chunk of a pack: where its sealed bytes are, and how long its content is."""

    id: bytes
    offset: int
    length: int
    plain: int


class Location(NamedTuple):
    pack: PackRef
    offset: int
    length: int
    plain: int


def encode_pack(
    keys: SessionKeys,
    chunks: Sequence[tuple[bytes, Buffer, int]],
    take: Callable[[int], memoryview] = fresh,
) -> tuple[PackRef, list[Entry], memoryview]:
    """A pack of (id, sealed chunk, plain length)s: its reference, its entries, its bytes in memory
    from `take`.
    """
    entries, offset = [], 0
    for name, sealed, plain in chunks:
        entries.append(Entry(name, offset, len(sealed), plain))
        offset += len(sealed)
    tail = encode_tail(keys, entries, os.urandom(NONCE_BYTES))
    data = take(offset + len(tail))
    for (_, sealed, _), entry in zip(chunks, entries, strict=True):
        data[entry.offset : entry.offset + entry.length] = sealed
    data[offset:] = tail
    return PackRef(pack_id(keys, data), len(data), len(tail) - _FOOTER.size), entries, data


def encode_tail(keys: SessionKeys, entries: Sequence[Entry], nonce: bytes) -> bytes:
    """Index and footer of a pack with these entries; `nonce` is new, or was used for just this."""
    index = b"".join([_ENTRY.pack(entry.id, entry.length, entry.plain) for entry in entries])
    sealed = nonce + keys.sealer.seal_again(index, _CONTEXT, nonce)
    return sealed + _FOOTER.pack(_MAGIC, _VERSION, len(sealed), len(entries))


def pack_id(keys: SessionKeys, data: Buffer) -> bytes:
    """The name of a pack with these bytes."""
    return bytes(blake3(data, key=keys.pack_id_key).digest(PACK_ID_BYTES))


def tail_size(ref: PackRef) -> int:
    """Length of index and footer in bytes."""
    return ref.index_size + _FOOTER.size


def decode_index(keys: SessionKeys, ref: PackRef, tail: bytes) -> list[Entry]:
    """The entries of a pack from its last `ref.index_size` + footer bytes. Raises `Damaged`."""
    what = f"The index of pack {ref.id.hex()}"
    if len(tail) != tail_size(ref):
        raise Damaged(what, "it is cut short")
    magic, version, size, count = _FOOTER.unpack(tail[-_FOOTER.size :])
    if magic != _MAGIC or version < 1:
        raise Damaged(what, "its footer is not one")
    if version > _VERSION:
        raise UnknownFormat(what, version, _VERSION)
    if size != ref.index_size or size - SEAL_OVERHEAD != count * _ENTRY.size:
        raise Damaged(what, "its footer does not fit")
    plain = keys.sealer.open(tail[: -_FOOTER.size], _CONTEXT, what)
    entries, offset = [], 0
    for name, length, plain_length in _ENTRY.iter_unpack(plain):
        entries.append(Entry(name, offset, length, plain_length))
        offset += length
    if offset + size + _FOOTER.size != ref.size:
        raise Damaged(what, "its lengths do not add up")
    return entries


def read_tail(store: BlobStore, ref: PackRef) -> bytes:
    """Index and footer of a pack in the store. Raises `Damaged` when it is missing."""
    length = tail_size(ref)
    try:
        return store.get(ref.key, max(0, ref.size - length), length)
    except NotFound:
        raise Damaged(f"Pack {ref.id.hex()}", "it is missing from the store") from None


def read_index(store: BlobStore, keys: SessionKeys, ref: PackRef) -> list[Entry]:
    """The entries of a pack in the store. Raises `Damaged` when it is missing or not intact."""
    return decode_index(keys, ref, read_tail(store, ref))


def verify_pack(
    store: BlobStore,
    keys: SessionKeys,
    ref: PackRef,
    bad: Callable[[bytes | None, Damaged | UnknownFormat], None] | None = None,
) -> set[bytes]:
    """Read and check every byte of a pack, in ranges; the ids of its intact chunks.

    Without `bad` the first damage is raised (`Damaged`, `UnknownFormat`); with it, `bad` is called
    for each: with a chunk's id, or None for what concerns the whole pack. Raises what the store
    raises.
    """
    what = f"Pack {ref.id.hex()}"

    def report(name: bytes | None, error: Damaged | UnknownFormat) -> None:
        if bad is None:
            raise error
        bad(name, error)

    try:
        return _verified(store, keys, ref, report)
    except NotFound:  # perhaps in the middle of it
        report(None, Damaged(what, "it is missing from the store"))
        return set()


def _verified(
    store: BlobStore,
    keys: SessionKeys,
    ref: PackRef,
    report: Callable[[bytes | None, Damaged | UnknownFormat], None],
) -> set[bytes]:
    what = f"Pack {ref.id.hex()}"
    try:
        entries = read_index(store, keys, ref)
        if store.get(ref.key, ref.size, 1):
            raise Damaged(what, f"it has more than its {ref.size} bytes")
    except (Damaged, UnknownFormat) as error:
        report(None, error)
        return set()
    whole, intact, at = blake3(key=keys.pack_id_key), set(), 0
    for run in _stretches(entries):
        start, length = run[0].offset, sum(entry.length for entry in run)
        data = memoryview(store.get(ref.key, start, length))
        whole.update(data)
        at = start + length
        for entry in run:
            chunk = f"Chunk {entry.id.hex()} in pack {ref.id.hex()}"
            sealed = data[entry.offset - start : entry.offset - start + entry.length]
            try:
                content = unseal(keys, entry.id, sealed, chunk)
                if chunk_id(keys, content) != entry.id or len(content) != entry.plain:
                    raise Damaged(chunk, "its content is not what its id says")
                intact.add(entry.id)
            except (Damaged, UnknownFormat) as error:
                report(entry.id, error)
    whole.update(store.get(ref.key, at, tail_size(ref)))
    if len(intact) == len({entry.id for entry in entries}) and (
        whole.digest(PACK_ID_BYTES) != ref.id
    ):
        report(None, Damaged(what, "its bytes are not what its id says"))
    return intact


def _stretches(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Neighbouring chunks, about 4 MiB at a time."""
    stretch: list[Entry] = []
    size = 0
    for entry in entries:
        stretch.append(entry)
        size += entry.length
        if size >= _STRETCH:
            yield stretch
            stretch, size = [], 0
    if stretch:
        yield stretch
