"""Reading a pack whose index cannot be read: what is in it says itself where it ends.

Chunks lie back to back. Deciphering one needs neither its id nor its length, only proving it does.
A zstd frame says where it ends; content that is not compressed ends where another chunk may begin,
of which there are a few places to try (where damage hides the head of a chunk, the one before it is
lost too, if it is not compressed). The content gives the id, and with it the seal is checked:
what is found is what was written, as much as if the index had said so.
"""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from checkpoint.blobs import BlobStore
from checkpoint.chunks import MAX_CHUNK, RAW, SEALED_OVERHEAD, VERSION, ZSTD, chunk_id, unseal
from checkpoint.errors import Damaged, NotFound, UnknownFormat
from checkpoint.keys import NONCE_BYTES, SessionKeys
from checkpoint.packs import Entry, PackRef, encode_tail, pack_id, read_index, tail_size

_HEADS = tuple(bytes((VERSION, codec)) for codec in (RAW, ZSTD))


def entries_of(store: BlobStore, keys: SessionKeys, ref: PackRef) -> list[Entry]:
    """As `read_index`, but of a pack whose index is damaged the chunks that are found without it.
    Raises `Damaged` when the pack is missing, `UnknownFormat`."""
    try:
        return read_index(store, keys, ref)
    except Damaged as error:
        try:
            return salvage(keys, ref, store.get(ref.key, 0, ref.size))
        except NotFound:
            raise error from None


def salvage(keys: SessionKeys, ref: PackRef, data: bytes) -> list[Entry]:
    """The chunks in the bytes of a pack that are intact, without its index."""
    end = min(len(data), ref.size - tail_size(ref))
    found, at = [], 0
    while at < end:
        entry = _chunk_at(keys, data, at, end)
        if entry is None:
            at = next(_heads(data, at + 1, end), end)
        else:
            found.append(entry)
            at += entry.length
    return found


def is_whole(ref: PackRef, entries: list[Entry]) -> bool:
    """Whether these are all chunks of the pack."""
    return sum(entry.length for entry in entries) == ref.size - tail_size(ref)


def as_it_was(keys: SessionKeys, ref: PackRef, data: bytes) -> bytes | None:
    """The pack with its index and footer made anew; None when that is not, byte for byte, the pack
    of that name: a chunk is damaged, or the nonce that the index was sealed with."""
    entries = salvage(keys, ref, data)
    body = data[: ref.size - tail_size(ref)]
    nonce = data[len(body) : len(body) + NONCE_BYTES]
    if not is_whole(ref, entries) or len(nonce) != NONCE_BYTES:
        return None
    made = body + encode_tail(keys, entries, nonce)
    return made if pack_id(keys, made) == ref.id else None


def _chunk_at(keys: SessionKeys, data: bytes, start: int, end: int) -> Entry | None:
    head = data[start : start + 2]
    if head not in _HEADS:
        return None
    limit = min(end, start + MAX_CHUNK + SEALED_OVERHEAD)
    payload = keys.sealer.decipher(memoryview(data)[start + 2 : limit])
    if head[1] == ZSTD:
        lengths: Iterator[int] = _frame(payload)
    else:
        after = start + SEALED_OVERHEAD
        lengths = (stop - after for stop in (*_heads(data, after, limit), limit))
    for length in lengths:
        stop = start + SEALED_OVERHEAD + length
        if stop <= end and (entry := _proven(keys, data, start, stop, payload[:length])):
            return entry
    return None


def _frame(payload: bytes) -> Iterator[int]:
    """The length of the zstd frame that `payload` begins with, if it does."""
    reader = zstandard.ZstdDecompressor().decompressobj()
    try:
        if zstandard.frame_content_size(payload) <= MAX_CHUNK:
            reader.decompress(payload)
            if reader.eof:
                yield len(payload) - len(reader.unused_data)
    except zstandard.ZstdError:
        return


def _proven(keys: SessionKeys, data: bytes, start: int, stop: int, payload: bytes) -> Entry | None:
    try:
        raw = data[start + 1] == RAW
        content = payload if raw else zstandard.decompress(payload, max_output_size=MAX_CHUNK)
        name = chunk_id(keys, content)
        unseal(keys, name, memoryview(data)[start:stop], "A chunk")
    except (Damaged, UnknownFormat, zstandard.ZstdError):
        return None
    return Entry(name, start, stop - start, len(content))


def _heads(data: bytes, start: int, end: int) -> Iterator[int]:
    """Where a chunk may begin, ascending."""
    at = start
    while (at := data.find(bytes([VERSION]), at, end)) >= 0:
        if data[at : at + 2] in _HEADS:
            yield at
        at += 1
