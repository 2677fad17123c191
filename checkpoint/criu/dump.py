"""A dump that is to be stored: a directory of CRIU's images, and the memory that belongs to it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoint.blobs import Buffer
from checkpoint.criu.digests import Known
from checkpoint.criu.pagemap import U8, U64, Mask
from checkpoint.criu.spent import Spent


@dataclass(frozen=True)
class PageFile:
    """The pages of one pages file, in order. `content` are those that were `kept` (None: all);
    the others are known, by their `digests` (None: not computed yet).
    """

    content: U8
    kept: Mask | None = None
    digests: U64 | None = None
    spent: Spent | None = None


@dataclass(frozen=True)
class Dump:
    """See the module. `pages` by the names that the files would have (`pages-<id>.img`). What of
    them is not there is in `known`.
    """

    directory: Path
    pages: Mapping[str, PageFile]
    known: Known | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that are here."""
        return sum(len(file.content) for file in self.pages.values())

    @classmethod
    def read(cls, directory: str | os.PathLike[str], *, spend: bool = False) -> Dump:
        """What CRIU wrote to `directory` by itself. With `spend` its pages, on tmpfs, are given
        back while they are stored: it is of no use after.
        """
        directory = Path(directory)
        pages = {}
        for path in directory.glob("pages-*.img"):
            content, spent = map_to_spend(path) if spend else (map_pages(path), None)
            pages[path.name] = PageFile(content, spent=spent)
        return cls(directory, pages)


def map_pages(path: Path) -> U8:
    """The bytes of a pages file, mapped."""
    return np.frombuffer(mapped(path), dtype=np.uint8)


def map_to_spend(path: Path) -> tuple[U8, Spent | None]:
    """The bytes of a pages file, mapped to be given back piece by piece."""
    with path.open("r+b") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, dtype=np.uint8), None
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        memory = mmap.mmap(file.fileno(), 0, flags=flags)
        return np.frombuffer(memory, dtype=np.uint8), Spent(memory)


def mapped(path: Path) -> Buffer:
    """The bytes of a file, mapped."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ))
