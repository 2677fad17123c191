"""Chunks: pieces of content, named by a keyed hash of what they hold, compressed and sealed.

Sealed chunk: version u8 | codec u8 | nonce 12 | AES-256-GCM ciphertext and tag, where the seal
binds version, codec and chunk id. Only who has the session's key can name a chunk or tell whether
a store holds it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import zstandard
from blake3 import blake3

from checkpoint.blobs import Buffer
from checkpoint.buffers import fresh
from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.keys import SEAL_OVERHEAD, SessionKeys

MAX_CHUNK = 1 << 20
ID_BYTES = 32
SEALED_OVERHEAD = 2 + SEAL_OVERHEAD

VERSION = 1
RAW, ZSTD = 0, 1
_WORTH_IT = 0.9  # of the size: floats shrink by 6 %, at five times the time of all else
_SAMPLE = 4096
_codecs = threading.local()  # zstd contexts must not be shared between threads


def chunk_id(keys: SessionKeys, data: Buffer) -> bytes:
    """The name of `data` in this session: keyed BLAKE3, 32 bytes."""
    return blake3(data, key=keys.chunk_id_key).digest()


def seal(
    keys: SessionKeys, name: bytes, data: Buffer, take: Callable[[int], memoryview] = fresh
) -> memoryview:
    """The sealed chunk, in memory from `take`. `data` has at most `MAX_CHUNK` bytes and the id
    `name`.
    """
    codec, payload = _compress(data)
    head = bytes((VERSION, codec))
    sealed = take(len(payload) + SEALED_OVERHEAD)
    sealed[: len(head)] = head
    keys.sealer.seal_into(sealed[len(head) :], payload, head + name)
    return sealed


def unseal(keys: SessionKeys, name: bytes, sealed: Buffer, what: str) -> bytes:
    """What was sealed under `name`. Raises `Damaged` or `UnknownFormat`, naming `what`."""
    view = memoryview(sealed)
    if len(view) < SEALED_OVERHEAD:
        raise Damaged(what, "it is cut short")
    version, codec = view[0], view[1]
    if version > VERSION:
        raise UnknownFormat(what, version, VERSION)
    payload = keys.sealer.open(view[2:], bytes(view[:2]) + name, what)
    if codec == RAW:
        return payload
    try:
        if codec != ZSTD or zstandard.frame_content_size(payload) > MAX_CHUNK:
            raise Damaged(what, f"it has an unknown codec ({codec})")
        return _decompressor().decompress(payload, max_output_size=MAX_CHUNK)
    except zstandard.ZstdError as error:
        raise Damaged(what, f"it does not decompress ({error})") from None


def _compress(data: Buffer) -> tuple[int, Buffer]:
    size = len(data)
    if size >= 4 * _SAMPLE:
        view = memoryview(data)
        starts = (0, size // 2, size - _SAMPLE)
        sample = b"".join([view[start : start + _SAMPLE] for start in starts])
        if len(_compressor().compress(sample)) > _WORTH_IT * len(sample):
            return RAW, data
    packed = _compressor().compress(data)
    return (ZSTD, packed) if len(packed) < _WORTH_IT * size else (RAW, data)


def _compressor() -> zstandard.ZstdCompressor:
    try:
        return cast(zstandard.ZstdCompressor, _codecs.compressor)
    except AttributeError:
        compressor = _codecs.compressor = zstandard.ZstdCompressor(level=1)
        return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    try:
        return cast(zstandard.ZstdDecompressor, _codecs.decompressor)
    except AttributeError:
        decompressor = _codecs.decompressor = zstandard.ZstdDecompressor()
        return decompressor
