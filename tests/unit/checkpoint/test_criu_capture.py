"""A dump is taken while CRIU makes it: see also test_criu_pages.py, and the contract of places."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from capturing import capture, send

from checkpoint.blobs import Memory
from checkpoint.criu import Capture, Image, encode, known, materialize
from checkpoint.criu.capture import SOCKET
from checkpoint.criu.identity import OPEN_FILES, OpenFile, OpenFiles
from checkpoint.criu.pagemap import PAGE, PRESENT, Pagemap, encode_pagemap
from checkpoint.errors import InvalidImage
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
BASE = 0x7F00_0000_0000


def images(directory: Path, *processes: bytes) -> Path:
    directory.mkdir()
    for number, content in enumerate(processes, 1):
        columns = (
            np.array([one], dtype=np.uint64) for one in (BASE, len(content) // PAGE, PRESENT)
        )
        pagemap = encode_pagemap(Pagemap(number, *columns))
        (directory / f"pagemap-{number}.img").write_bytes(pagemap)
        (directory / f"pages-{number}.img").write_bytes(content)
    (directory / "inventory.img").write_bytes(b"inventory")
    return directory


def pages(count: int, seed: int = 1) -> bytearray:
    return bytearray(random.Random(seed).randbytes(count * PAGE))


class Session:
    def __init__(self) -> None:
        self.store = Memory()
        self.writer = Writer(self.store, KEYS)
        self.image: Image | None = None

    def save(self, directory: Path, into: Path) -> int:
        """Capture and store; bytes of memory that were brought."""
        dump = capture(directory, into, known(self.writer, self.image))
        self.image = encode(self.writer, dump, self.image)
        self.packs = self.writer.finish()
        return dump.size

    def back(self, directory: Path) -> Path:
        assert self.image is not None
        with Reader(self.store, KEYS, self.packs) as reader:
            return materialize(reader, self.image.root, directory).directory


def test_only_what_is_not_known_is_brought_wherever_it_was(tmp_path: Path) -> None:
    session, small, large = Session(), pages(700, 1), pages(5000, 2)
    first = images(tmp_path / "1", small, large)
    assert session.save(first, tmp_path / "1c") == len(small) + len(large)
    large[4000 * PAGE : 4001 * PAGE] = bytes(PAGE)  # zeros have no place
    large[17] ^= 1
    moved = large[PAGE:] + pages(3, 3)  # all addresses are others
    assert session.save(images(tmp_path / "2", small, moved), tmp_path / "2c") == 3 * PAGE
    back = session.back(tmp_path / "back")
    assert (back / "pages-1.img").read_bytes() == small
    assert (back / "pages-2.img").read_bytes() == moved
    assert (back / "inventory.img").read_bytes() == b"inventory"


def test_pages_go_into_the_memory_that_is_at_hand_and_it_is_not_in_the_way(tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.write_bytes(bytes(8 << 20))
    content = [pages(10), pages(1500, 2)]
    dump = capture(images(tmp_path / "dump", *content), tmp_path / "into", None, room)
    assert [bytes(dump.pages[f"pages-{n}.img"].content) for n in (1, 2)] == content
    assert not room.exists()
    assert sorted(os.listdir(tmp_path / "into")) == [
        "inventory.img",
        "pagemap-1.img",
        "pagemap-2.img",
    ]


def test_a_page_with_an_open_file_s_identity_is_brought_again(tmp_path: Path) -> None:
    session, content = Session(), pages(200)
    np.frombuffer(content, "<u8")[PAGE : PAGE + 2] = 7, 4711
    for number in range(2):
        directory = images(tmp_path / f"{number}", content)
        files = OpenFiles((OpenFile("/home/a", 7, 4711),))
        (directory / OPEN_FILES).write_bytes(files.encode())
        session.save(directory, tmp_path / f"{number}c")
        assert session.image is not None
        [mark] = session.image.open_files.marks
        assert mark.address == BASE + PAGE * 8


def test_what_is_left_out_and_not_in_the_repository_any_more_is_no_checkpoint(
    tmp_path: Path,
) -> None:
    session, directory = Session(), images(tmp_path / "dump", pages(100))
    session.image = encode(session.writer, directory, None)
    dump = capture(directory, tmp_path / "into", known(session.writer, session.image))
    assert dump.size == 0
    session.writer.abort()
    with pytest.raises(InvalidImage, match="not in the repository any more"):
        encode(session.writer, dump, session.image)
    assert known(session.writer, session.image) is None
    assert session.save(directory, tmp_path / "again") == 100 * PAGE


def test_nobody_comes_and_nobody_waits(tmp_path: Path) -> None:
    with Capture(tmp_path) as one:
        assert (tmp_path / SOCKET).is_socket()
    assert one.error is None
    assert list(tmp_path.iterdir()) == []


def test_pages_that_end_in_the_middle_are_refused(tmp_path: Path) -> None:
    session, content = Session(), pages(2000)
    session.save(images(tmp_path / "1", content), tmp_path / "1c")
    cut_off = images(tmp_path / "2", content)
    (cut_off / "pages-1.img").write_bytes(content[:-5])
    with pytest.raises(InvalidImage, match="middle of a page"):
        session.save(cut_off, tmp_path / "2c")


@contextmanager
def little_room(tmp_path: Path) -> Iterator[Path]:
    """A directory for 1 MiB."""
    into = tmp_path / "into"
    into.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(into)], check=True)
    try:
        yield into
    finally:
        subprocess.run(["umount", str(into)], check=True)


@pytest.mark.container
@pytest.mark.parametrize("is_known", [False, True], ids=["", "of-known-pages"])
def test_who_sends_more_than_there_is_room_for_is_told_at_once(
    tmp_path: Path, is_known: bool
) -> None:
    session = Session()
    if is_known:
        session.save(images(tmp_path / "before", pages(10, 3)), tmp_path / "taken")
    directory = images(tmp_path / "dump", pages(2000))
    with little_room(tmp_path) as into, Capture(into, known(session.writer, session.image)) as one:
        with pytest.raises(BrokenPipeError):
            send(directory, into)
        with pytest.raises(InvalidImage, match="No space left"):
            one.dump()


@pytest.mark.container
def test_an_image_whose_end_has_no_room_is_not_cut_short(tmp_path: Path) -> None:
    directory = tmp_path / "dump"
    directory.mkdir()
    (directory / "a.img").write_bytes(bytes(2 * PAGE))
    (directory / "b.img").write_bytes(bytes(1 << 20))  # lacks two pages of the last piece read
    with little_room(tmp_path) as into, Capture(into) as one:
        send(directory, into)
        with pytest.raises(InvalidImage, match="No space left"):
            one.dump()


@pytest.mark.container
def test_room_is_given_back_where_nothing_can_begin(tmp_path: Path) -> None:
    with little_room(tmp_path) as into:
        (into / "room").write_bytes(bytes(PAGE))
        (into / SOCKET).touch()  # as one that was killed leaves it
        with pytest.raises(OSError, match="in use"), Capture(into, room=into / "room"):
            raise AssertionError("it began")
        assert (into / "room").exists()  # whoever made it removes it


def test_a_descriptor_that_does_not_come_is_no_empty_image(tmp_path: Path) -> None:
    with Capture(tmp_path) as one:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / SOCKET))
            request = b"\x0a\x05a.img"
            connection.sendall(len(request).to_bytes(4, "little") + request + b"\0")
        with pytest.raises(InvalidImage, match="descriptor"):
            one.dump()


def test_a_path_of_any_length_does(tmp_path: Path) -> None:
    into = tmp_path.joinpath(*["long" * 20] * 3)
    into.parent.mkdir(parents=True)
    dump = capture(images(tmp_path / "dump", pages(1)), into)
    assert dump.size == PAGE
    with pytest.raises(OSError, match="too long"), socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(into / SOCKET))
