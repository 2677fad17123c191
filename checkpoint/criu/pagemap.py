"""CRIU's pagemap images: which pages of a process, or of a shared memory segment, a dump holds.

Layout (CRIU `criu/pagemap.c`, `images/pagemap.proto`): two u32 magics, then messages, each a u32
length and protobuf. First a head (1: pages id), then entries (1: address, 2: nr_pages as u32 in
old images, 3: in_parent in old images, 4: flags, 5: nr_pages). The pages of present entries lie
back to back in `pages-<pages id>.img`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoint.errors import InvalidImage

PAGE = 4096
IN_PARENT, LAZY, PRESENT = 1, 2, 4

_MAGIC = struct.pack("<II", 0x54564319, 0x56084025)
_LENGTH = struct.Struct("<I")

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pagemap:
    """One pagemap image. Entry i covers `counts[i]` pages from address `addresses[i]` on."""

    pages_id: int
    addresses: U64
    counts: U64
    flags: U64

    def present(self) -> Pagemap:
        """The entries alone whose pages are in the pages file."""
        mask = (self.flags & PRESENT) != 0
        return Pagemap(self.pages_id, self.addresses[mask], self.counts[mask], self.flags[mask])

    def page_numbers(self) -> U64:
        """Address / `PAGE` of every page of every entry, in order.

        Raises `InvalidImage` when there are more than twice this machine's memory holds.
        """
        total = sum(self.counts.tolist())
        if total * PAGE > 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise InvalidImage(
                f"A process image has {total * PAGE >> 30} GiB, too much to be here."
            )
        return spread(self.addresses // np.uint64(PAGE), self.counts)


def spread(starts: U64, counts: U64) -> U64:
    """start, start + 1, … `count` numbers for each pair."""
    ends = np.cumsum(counts, dtype=np.uint64)
    total = int(ends[-1]) if len(ends) else 0
    firsts = np.repeat(starts - (ends - counts), counts.astype(np.int64))
    return firsts + np.arange(total, dtype=np.uint64)


def decode_pagemap(data: bytes, name: str) -> Pagemap:
    """Parse the image `name`. Raises `InvalidImage`."""
    if not data.startswith(_MAGIC):
        raise InvalidImage(f"{name} is not a pagemap image of CRIU.")
    try:
        messages = _messages(data)
        head = next(messages, None)
        if head is None:
            raise InvalidImage(f"{name} has no head.")
        rows = [
            (
                entry[1],
                entry.get(5) or entry.get(2, 0),
                entry.get(4, IN_PARENT if entry.get(3) else PRESENT),
            )
            for entry in messages
        ]
        table = np.array(rows, dtype=np.uint64).reshape(-1, 3)
        return Pagemap(head[1], table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())
    except (IndexError, KeyError, struct.error, OverflowError):
        raise InvalidImage(f"{name} is cut short, or in a form that is not known.") from None


def encode_pagemap(pagemap: Pagemap) -> bytes:
    """The image's bytes, as CRIU 4 writes them."""
    parts = [_MAGIC]
    _add(parts, b"\x08" + _varint(pagemap.pages_id))
    rows = zip(
        pagemap.addresses.tolist(), pagemap.counts.tolist(), pagemap.flags.tolist(), strict=True
    )
    for address, count, flags in rows:
        message = (
            b"\x08",
            _varint(address),
            b"\x10\x00\x20",
            _varint(flags),
            b"\x28",
            _varint(count),
        )
        _add(parts, b"".join(message))
    return b"".join(parts)


def _add(parts: list[bytes], message: bytes) -> None:
    parts.append(_LENGTH.pack(len(message)))
    parts.append(message)


def _messages(data: bytes) -> Iterator[dict[int, int]]:
    at = len(_MAGIC)
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise IndexError
        yield _fields(data, at, at + length)
        at += length


def _fields(data: bytes, at: int, end: int) -> dict[int, int]:
    """The integer fields of one protobuf message; others are skipped."""
    fields: dict[int, int] = {}
    while at < end:
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:
                fields[tag >> 3], at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _read_varint(data, at)
                at += length
            case 5:
                at += 4
            case _:
                raise IndexError
    if at != end:
        raise IndexError
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:  # protobuf has no longer ones
            raise IndexError


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
