"""What tells pages apart: XXH3-128 of each page, under a seed that only this process knows, since
whoever fills the memory must not be able to make two pages look alike.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_128_digest

from checkpoint.criu.image import ZERO, Image
from checkpoint.criu.pagemap import PAGE, U8, U16, U32, U64, Mask

_SEED = secrets.randbits(64)
ZERO_DIGEST = np.frombuffer(xxh3_128_digest(bytes(PAGE), _SEED), dtype=np.uint64)


def digests_of(content: U8) -> U64:
    """The digest of each page: two u64 a row."""
    view = content.data
    seed = _SEED
    ends = range(PAGE, len(view) + 1, PAGE)
    joined = b"".join([xxh3_128_digest(view[end - PAGE : end], seed) for end in ends])
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True)
class Known:
    """Pages that are in a repository as part of `image`, to be found by their digest, wherever in
    memory they are now. Pages of zeros, which need no place, are among them.
    """

    image: Image
    but: Mask
    """The chunks of `image` none of whose pages is found."""
    _first: U64  # ascending
    _second: U64
    _chunk: U32
    _slot: U16

    @classmethod
    def of(cls, image: Image, but: Mask) -> Known:
        """Those of an image with digests, without those in the chunks `but` (numbers in its list),
        and without those that hold an open file's identity: these are wanted themselves.
        """
        marked = {(mark.table, mark.address // PAGE) for mark in image.open_files.marks}
        marked |= {(mark.table, (mark.address + 15) // PAGE) for mark in image.open_files.marks}
        digests, chunks, slots = [ZERO_DIGEST.reshape(1, 2)], [_ONE_ZERO], [_NO_SLOT]
        for name, table in image.tables.items():
            if table.digests is None:
                continue
            stored = table.chunk != ZERO
            stored[stored] = ~but[table.chunk[stored]]
            mine = np.array([page for of, page in marked if of == name], dtype=np.uint64)
            # Nothing is known of the content of a page whose digest is zero.
            stored &= ~np.isin(table.pages, mine) & np.any(table.digests != 0, axis=1)
            digests.append(table.digests[stored])
            chunks.append(table.chunk[stored])
            slots.append(table.slot[stored])
        all_digests = np.concatenate(digests)
        order = np.argsort(all_digests[:, 0], kind="stable")
        return cls(
            image,
            but,
            np.ascontiguousarray(all_digests[order, 0]),
            np.ascontiguousarray(all_digests[order, 1]),
            np.concatenate(chunks)[order],
            np.concatenate(slots)[order],
        )

    def holds(self, digests: U64) -> Mask:
        """Which of the pages with these digests are known."""
        return self._find(digests)[1]

    def places(self, digests: U64) -> tuple[U32, U16]:
        """Chunk and slot of pages that all are known."""
        at, found = self._find(digests)
        assert found.all()
        return self._chunk[at], self._slot[at]

    def _find(self, digests: U64) -> tuple[np.ndarray, Mask]:
        last = len(self._first) - 1
        at = np.minimum(np.searchsorted(self._first, digests[:, 0]), last)
        found: Mask = (self._first[at] == digests[:, 0]) & (self._second[at] == digests[:, 1])
        # Two pages whose first halves are alike and second ones are not: not one in 2^40 images.
        return at, found


_ONE_ZERO = np.array([ZERO], dtype=np.uint32)
_NO_SLOT = np.zeros(1, dtype=np.uint16)
