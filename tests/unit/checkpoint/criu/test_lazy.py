"""What of an image comes later, what its directory says to CRIU, and how CRIU is listened to."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from checkpoint.blobs import Memory
from checkpoint.criu import (
    Image,
    Lazy,
    Materialized,
    Pager,
    encode,
    large_stretches,
    lazy_bytes,
    materialize,
    materialize_lazily,
)
from checkpoint.criu.identity import OPEN_FILES, Mark, OpenFile, OpenFiles
from checkpoint.criu.pagemap import (
    IN_PARENT,
    LAZY,
    PAGE,
    PRESENT,
    Pagemap,
    decode_pagemap,
    encode_pagemap,
)
from checkpoint.criu.pager import FINISHED
from checkpoint.criu.pages import STRETCH, Content
from checkpoint.errors import MemoryLost
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

BASE = 0x7F00_0000_0000 // PAGE
KEYS = SessionKeys(b"k" * 32)
Rows = list[tuple[int, int, int]]
"""Entries of a pagemap: page (from BASE), how many, flags."""

LARGE: Rows = [(0, 10, PRESENT), (10, STRETCH, PRESENT | LAZY), (2 * STRETCH, 5, PRESENT | LAZY)]


class Session:
    """A store with one image: of each process the entries `rows`, and random pages."""

    def __init__(
        self, directory: Path, *processes: Rows, zero: int = 0, identity_at: int | None = None
    ) -> None:
        directory.mkdir()
        self.contents = []
        for number, rows in enumerate(processes, 1):
            columns = np.array(rows, dtype=np.uint64).T.copy()
            pagemap = Pagemap(number, (columns[0] + BASE) * PAGE, columns[1], columns[2])
            content = np.random.default_rng(1).integers(
                256, size=(int(columns[1].sum()), PAGE), dtype=np.uint8
            )
            content[20 : 20 + zero] = 0
            if identity_at is not None:
                content.reshape(-1).view("<u8")[identity_at // 8 :][:2] = 7, 4711
                files = OpenFiles((OpenFile("/home/a", 7, 4711),))
                (directory / OPEN_FILES).write_bytes(files.encode())
            self.contents.append(content)
            (directory / f"pagemap-{number}.img").write_bytes(encode_pagemap(pagemap))
            (directory / f"pages-{number}.img").write_bytes(content.tobytes())
        self.store = Memory()
        with Writer(self.store, KEYS) as writer:
            self.root = encode(writer, directory, None).root
            self.packs = writer.finish()

    def reader(self) -> Reader:
        return Reader(self.store, KEYS, self.packs)

    def lazily(
        self, directory: Path, parent: Materialized | None = None, least: int = PAGE
    ) -> Materialized:
        return materialize_lazily(self.reader(), self.root, directory, parent, least)


def _entries(directory: Path, number: int = 1) -> Rows:
    name = f"pagemap-{number}.img"
    pagemap = decode_pagemap((directory / name).read_bytes(), name)
    pages = (pagemap.addresses // np.uint64(PAGE) - np.uint64(BASE)).tolist()
    return list(zip(pages, pagemap.counts.tolist(), pagemap.flags.tolist(), strict=True))


def _given(image: Lazy) -> dict[tuple[str, int], bytes]:
    """Each page that comes later, as the background transfer gives it."""
    found = {}
    lock = threading.Lock()

    def take(content: Content) -> None:
        for number in range(len(content.data) // PAGE):
            page = content.data[number * PAGE : (number + 1) * PAGE].tobytes()
            with lock:
                assert (content.name, content.first + number) not in found
                found[content.name, content.first + number] = page

    image.pages.each(take, set())
    return found


def _expected(session: Session) -> dict[tuple[str, int], bytes]:
    pages = session.contents[0][10 : 10 + STRETCH]
    return {
        ("pagemap-1.img", BASE + 10 + number): page.tobytes()
        for number, page in enumerate(pages)
        if page.any()
    }


def test_only_large_stretches_come_later(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE, zero=3)
    image = session.lazily(tmp_path / "lazy")
    assert isinstance(image, Lazy)
    assert _entries(image.directory) == [
        (0, 10, PRESENT),
        (10, STRETCH, LAZY),
        (2 * STRETCH, 5, PRESENT),
    ]
    here = (image.directory / "pages-1.img").read_bytes()
    whole = session.contents[0]
    assert here == whole[:10].tobytes() + whole[-5:].tobytes()
    assert image.pages.stretches("pagemap-1.img") == [
        (BASE + 10, BASE + 20),
        (BASE + 23, BASE + 10 + STRETCH),
    ]
    assert _given(image) == _expected(session)
    with session.reader() as reader:
        assert lazy_bytes(reader, session.root) == STRETCH * PAGE


def test_one_page_that_is_waited_for_comes_with_its_chunk(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE)
    image = session.lazily(tmp_path / "lazy")
    assert isinstance(image, Lazy)
    page = BASE + 10 + STRETCH // 2
    contents = image.pages.read(image.pages.source("pagemap-1.img", page))
    (one,) = [c for c in contents if c.first <= page < c.first + len(c.data) // PAGE]
    at = (page - one.first) * PAGE
    assert one.data[at : at + PAGE].tobytes() == _expected(session)["pagemap-1.img", page]


def test_pages_that_are_on_the_node_are_taken_from_there(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE, zero=3)
    with session.reader() as reader:
        whole = materialize(reader, session.root, tmp_path / "whole")
    image = session.lazily(tmp_path / "lazy", whole)
    assert isinstance(image, Lazy)
    for pack in [key for key in session.store.objects if key.startswith("packs/")]:
        session.store.delete(pack)
    assert _entries(image.directory)[:2] == [(0, 10, IN_PARENT), (10, STRETCH, LAZY)]
    assert _given(image) == _expected(session)


def test_next_checkpoint_knows_every_page_that_was_given(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE, zero=3)
    image = session.lazily(tmp_path / "lazy")
    assert isinstance(image, Lazy)
    _given(image)
    image.arrived.set()
    with Writer(session.store, KEYS, session.packs) as writer:
        again: Image = encode(writer, tmp_path / "dump", image.image())
    # All but the zero pages, which are compared with zero alone, are where they were.
    for name, table in again.tables.items():
        assert np.array_equal(table.chunk, image.loaded.tables[name].chunk)


def test_page_with_the_identity_of_an_open_file_is_there_from_the_beginning(
    tmp_path: Path,
) -> None:
    # Across the border of two pages.
    session = Session(tmp_path / "dump", LARGE, identity_at=100 * PAGE - 8)
    image = session.lazily(tmp_path / "lazy")
    assert isinstance(image, Lazy)
    assert OpenFiles.read(image.directory).marks == (
        Mark("pagemap-1.img", (BASE + 100) * PAGE - 8, 0),
    )
    assert _entries(image.directory)[1:4] == [
        (10, 89, LAZY),
        (99, 2, PRESENT),
        (101, STRETCH - 91, LAZY),
    ]
    image.refer_to(tmp_path)


def test_memory_that_processes_share_after_a_fork_does_not_come_later(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE, LARGE)
    image = session.lazily(tmp_path / "lazy")
    assert not isinstance(image, Lazy)
    # And who wonders why can see it.
    large = large_stretches(image.loaded)
    assert list(large.values()) == [STRETCH * PAGE] * 2
    apart: Rows = [(page + 10 * STRETCH, count, flags) for page, count, flags in LARGE]
    session = Session(tmp_path / "apart", LARGE, apart)
    assert isinstance(session.lazily(tmp_path / "lazy2"), Lazy)


def test_image_with_little_to_come_later_is_whole(tmp_path: Path) -> None:
    session = Session(tmp_path / "dump", LARGE)
    image = session.lazily(tmp_path / "lazy", least=(STRETCH + 1) * PAGE)
    assert not isinstance(image, Lazy)
    assert (image.directory / "pages-1.img").read_bytes() == session.contents[0].tobytes()


class _Criu:
    """CRIU's side of the conversation."""

    def __init__(self, tmp_path: Path) -> None:
        image = Session(tmp_path / "dump", LARGE).lazily(tmp_path / "lazy")
        assert isinstance(image, Lazy)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        self.pager = Pager(listener, image.pages)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(tmp_path / "s"))

    def say(self, *numbers: int) -> None:
        self.socket.send(struct.pack(f"={len(numbers)}i", *numbers))


def test_nothing_is_waited_for_when_no_process_is_alive(tmp_path: Path) -> None:
    criu = _Criu(tmp_path)
    criu.say(-5, -6, FINISHED)
    criu.pager.serve()
    criu.pager.close()


def test_end_of_criu_in_the_middle_is_noticed(tmp_path: Path) -> None:
    criu = _Criu(tmp_path)
    criu.say(-5)
    criu.socket.close()
    with pytest.raises(MemoryLost, match="CRIU ended"):
        criu.pager.serve()
    criu.pager.close()


def test_pager_that_is_stopped_ends(tmp_path: Path) -> None:
    criu = _Criu(tmp_path)
    criu.pager.stop()
    with pytest.raises(MemoryLost, match="given up"):
        criu.pager.serve()
    criu.pager.close()
