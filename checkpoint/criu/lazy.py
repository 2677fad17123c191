"""Chunks to a directory that CRIU restores lazily from: all of an image but its large stretches of
memory, which come while the processes run (`criu restore --lazy-pages`, `checkpoint.criu.pager`).

In the pagemaps those are entries with the flag `LAZY` alone; CRIU takes them for memory to
register with userfaultfd, and reads nothing. An entry with `PRESENT` it reads before.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from checkpoint.criu.dump import map_pages
from checkpoint.criu.identity import OPEN_FILES, OpenFiles
from checkpoint.criu.image import Image, Stored, Table, load_whole
from checkpoint.criu.materialize import Materialized, own_pages, write_image
from checkpoint.criu.pagemap import PAGE, Mask
from checkpoint.criu.pages import AtHand, Pages, may_come_later
from checkpoint.reader import Reader


@dataclass(eq=False)
class Lazy(Materialized):
    """An image directory without the pages that come `later`; a `Pager` gives those `pages`."""

    later: dict[str, Mask] = field(kw_only=True)
    pages: Pages = field(kw_only=True)
    arrived: threading.Event = field(default_factory=threading.Event, kw_only=True)
    """To be set when no more pages come; `image` waits for it."""

    def image(self) -> Image:
        """As of `Materialized`. Pages that were never given out count as changed."""
        self.arrived.wait()
        return super().image()

    def abandon(self) -> None:
        """No process is restored from here."""
        self.pages.close()
        self.arrived.set()

    def in_parent(self, name: str) -> Mask:
        mask: Mask = ~self.own[name] & ~self.later[name]
        return mask

    def _with_digests(self, name: str, before: Image | None) -> Table:
        table = super()._with_digests(name, before)
        assert table.digests is not None
        table.digests[self.later[name]] = self.pages.digests[name][self.later[name]]
        return table


def materialize_lazily(
    reader: Reader,
    root: bytes,
    directory: str | os.PathLike[str],
    parent: Materialized | None,
    least: int,
) -> Materialized:
    """Write the image `root` to `directory` without the memory that can come later, if that is at
    least `least` bytes; else as `materialize` does, or `materialize_delta` where there is a
    `parent`, which must be whole (and is returned where it is that image).

    Of a `Lazy`, `reader` is closed with its `pages`. Raises as `materialize`.
    """
    stored, directory = load_whole(reader, root), Path(directory)
    later = _later(stored)
    if _bytes(later) < least:
        if parent is not None and parent.loaded.root == root:
            return parent
        own = write_image(reader, stored, directory, parent)
        return Materialized(directory, stored.image, parent, own)
    own = write_image(reader, stored, directory, parent, later)
    at_hand = _at_hand(stored.image, parent) if parent is not None else {}
    pages = Pages(reader, stored.image, later, at_hand)
    return Lazy(directory, stored.image, parent, own, later=later, pages=pages)


def lazy_bytes(reader: Reader, root: bytes) -> int:
    """How much of the image `root` can come later. Raises `Damaged`, and what the store raises."""
    return _bytes(_later(load_whole(reader, root)))


def _later(stored: Stored) -> dict[str, Mask]:
    noted = stored.files.get(OPEN_FILES)
    return may_come_later(stored.image, OpenFiles.decode(noted).marks if noted else ())


def _bytes(later: dict[str, Mask]) -> int:
    return sum(int(mask.sum()) for mask in later.values()) * PAGE


def _at_hand(image: Image, parent: Materialized) -> dict[str, AtHand]:
    """The pages of `image` that are in the directory of `parent`."""
    found = {}
    for name, table in image.tables.items():
        mask = ~own_pages(name, image, parent)
        if mask.any():
            known = parent.loaded
            at = np.searchsorted(known.tables[name].pages, table.pages[mask])
            path = parent.directory / f"pages-{known.pagemaps[name].pages_id}.img"
            found[name] = AtHand(mask, at, map_pages(path))
    return found
