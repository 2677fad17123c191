"""What processes remember of their open files is found in a dump, and true where it is restored."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from checkpoint.blobs import Memory as MemoryStore
from checkpoint.criu import (
    Image,
    Materialized,
    encode,
    keep_locks,
    materialize,
    materialize_delta,
    note_open_files,
)
from checkpoint.criu.identity import (
    GONE,
    OPEN_FILES,
    OpenFile,
    OpenFiles,
    find_marks,
    identity_below,
)
from checkpoint.criu.pagemap import PAGE, PRESENT, Pagemap, encode_pagemap
from checkpoint.errors import Damaged, InvalidImage
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

BASE = 0x7F00_0000_0000
TABLE = "pagemap-5.img"
DATABASE = OpenFile("/home/user/data.db", 56, 7777)
SECOND = OpenFile("/home/user/second.db", 56, 8888)

Identity = tuple[int, int]


def of(file: OpenFile) -> Identity:
    return file.device, file.inode


def memory(pages: int, identities: dict[int, Identity]) -> bytearray:
    """Pages of noise with identities at these offsets."""
    content = bytearray(np.random.default_rng(1).bytes(pages * PAGE))
    for offset, identity in identities.items():
        struct.pack_into("<QQ", content, offset, *identity)
    return content


def found(content: bytes, changed: list[int], numbers: list[int] | None = None) -> dict[int, int]:
    count = len(content) // PAGE
    mask = np.zeros(count, dtype=np.bool_)
    mask[changed] = True
    pages = np.array(numbers or range(count), dtype=np.uint64)
    files = [DATABASE, SECOND]
    return find_marks(pages, np.frombuffer(content, dtype=np.uint8), mask, files)


@pytest.mark.parametrize("offset", [0, 8, PAGE - 16, PAGE - 8, 2 * PAGE, 3 * PAGE - 16])
def test_identity_is_found_wherever_it_stands(offset: int) -> None:
    content = memory(3, {offset: of(SECOND)})
    assert found(content, [0, 1, 2]) == {offset: 1}


def test_each_of_several_connections_is_found() -> None:
    at = {800: of(DATABASE), 800 + 600 * PAGE: of(DATABASE), 24: of(SECOND)}
    assert found(memory(700, at), list(range(700))) == {800: 0, 800 + 600 * PAGE: 0, 24: 1}
    assert found(memory(700, at), [0, 5, 600]) == {800: 0, 800 + 600 * PAGE: 0, 24: 1}


def test_pages_that_did_not_change_are_not_searched() -> None:
    assert found(memory(3, {PAGE + 80: of(DATABASE)}), [0, 2]) == {}


def test_pages_that_lie_apart_are_not_read_as_one() -> None:
    content = memory(2, {PAGE - 8: of(DATABASE)})
    assert found(content, [0, 1], [4, 5]) == {5 * PAGE - 8: 0}
    assert found(content, [0], [4, 5]) == found(content, [1], [4, 5]) == {5 * PAGE - 8: 0}
    assert found(content, [0, 1], [4, 6]) == {}


def test_numbers_that_are_not_aligned_or_of_another_device_are_let_alone() -> None:
    assert found(memory(1, {12: of(DATABASE), 800: (57, 7777), 1600: (56, 7778)}), [0]) == {}


class Node:
    """A root directory with the two databases."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for file in (DATABASE, SECOND):
            path = root / file.path[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("SQLite")

    def identity(self, file: OpenFile) -> Identity:
        status = (self.root / file.path[1:]).stat()
        return status.st_dev, status.st_ino


class Kernel:
    """A process that has both databases open, its dumps and its chain of checkpoints."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = MemoryStore()
        self.keys = SessionKeys.generate()
        self.writer = Writer(self.store, self.keys)
        self.packs: tuple[bytes, ...] = ()
        self.dumps = 0

    def dump(self, content: bytes, node: Node) -> Path:
        self.dumps += 1
        directory = self.base / f"dump-{self.dumps}"
        directory.mkdir()
        count = len(content) // PAGE
        rows = (np.array([value], dtype=np.uint64) for value in (BASE, count, PRESENT))
        (directory / TABLE).write_bytes(encode_pagemap(Pagemap(1, *rows)))
        (directory / "pages-1.img").write_bytes(content)
        write_descriptors(directory, {7: DATABASE.path, 8: SECOND.path})
        note_open_files(directory, node.root)
        return directory

    def save(self, content: bytes, node: Node, previous: Image | None) -> Image:
        image = encode(self.writer, self.dump(content, node), previous)
        self.packs = self.writer.finish()
        return image

    def open(self, image: Image, name: str, parent: Materialized | None = None) -> Materialized:
        with Reader(self.store, self.keys, self.packs) as reader:
            if parent is None:
                return materialize(reader, image.root, self.base / name)
            return materialize_delta(reader, image.root, self.base / name, parent)


def image_file(messages: list[bytes]) -> bytes:
    return bytes(8) + b"".join(struct.pack("<I", len(one)) + one for one in messages)


def write_descriptors(directory: Path, opened: dict[int, str]) -> None:
    """Descriptors and files as CRIU writes them; and one file that is only mapped."""
    files, descriptors = [], []
    for fd, path in {**opened, 99: "/usr/lib/mapped.so"}.items():
        name = path.encode()
        regular = b"\x08%c\x10\x02\x18\x00\x2a\x00\x32%c%s" % (fd, len(name), name)
        files.append(b"\x08\x01\x10%c\x1a%c%s" % (fd, len(regular), regular))
        if fd in opened:
            descriptors.append(b"\x08%c\x10\x00\x18\x01\x20%c" % (fd, fd))
    files.append(b"\x08\x02\x10\x05")  # a pipe
    (directory / "files.img").write_bytes(image_file(files))
    (directory / "fdinfo-2.img").write_bytes(image_file(descriptors))


def restored(opened: Materialized, pages: int) -> bytearray:
    """The memory that a restore from this directory gives."""
    content = bytearray(pages * PAGE)
    if opened.parent is not None:
        content[:] = restored(opened.parent, pages)
    own = np.flatnonzero(opened.own[TABLE])
    data = (opened.directory / "pages-1.img").read_bytes()
    for at, page in enumerate(own.tolist()):
        content[page * PAGE : (page + 1) * PAGE] = data[at * PAGE : (at + 1) * PAGE]
    return content


def test_identities_follow_the_files_from_node_to_node(tmp_path: Path) -> None:
    nodes = [Node(tmp_path / f"node-{n}") for n in range(3)]
    assert len({node.identity(DATABASE) for node in nodes}) == 3
    kernel = Kernel(tmp_path)
    places = {80: DATABASE, 9 * PAGE - 8: DATABASE, 20 * PAGE: SECOND}

    def lives_on(node: Node) -> bytearray:
        return memory(40, {at: node.identity(file) for at, file in places.items()})

    content = lives_on(nodes[0])
    first = kernel.save(content, nodes[0], None)
    content[20 * PAGE + 100] ^= 1  # of the pages with identities one changes before the move
    second = kernel.save(content, nodes[0], first)
    assert len(second.open_files.marks) == 3

    staged = kernel.open(first, "staged")
    opened = kernel.open(second, "opened", staged)
    opened.refer_to(nodes[1].root)
    expected = lives_on(nodes[1])
    expected[20 * PAGE + 100] ^= 1
    assert restored(opened, 40) == expected

    # Nothing changed since, and yet the repository must learn of the new identities.
    third = kernel.save(expected, nodes[1], opened.image())
    fourth = kernel.save(expected, nodes[1], third)
    assert fourth.open_files.marks == third.open_files.marks
    assert restored(kernel.open(fourth, "as-saved"), 40) == expected
    moved = kernel.open(fourth, "moved")
    moved.refer_to(nodes[2].root)
    expected = lives_on(nodes[2])
    expected[20 * PAGE + 100] ^= 1
    assert restored(moved, 40) == expected


def test_directory_can_be_restored_from_twice(tmp_path: Path) -> None:
    nodes = [Node(tmp_path / f"node-{n}") for n in range(3)]
    kernel = Kernel(tmp_path)
    content = memory(4, {80: nodes[0].identity(DATABASE)})
    opened = kernel.open(kernel.save(content, nodes[0], None), "opened")
    for node in nodes[1:]:
        opened.refer_to(node.root)
        assert restored(opened, 4) == memory(4, {80: node.identity(DATABASE)})


def test_file_that_is_gone_has_an_identity_that_no_file_has(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    kernel = Kernel(tmp_path)
    content = memory(
        4, {80: node.identity(DATABASE), 160: node.identity(SECOND), 240: node.identity(DATABASE)}
    )
    opened = kernel.open(kernel.save(content, node, None), "opened")
    kept = node.identity(SECOND)
    (node.root / DATABASE.path[1:]).unlink()
    opened.refer_to(node.root)
    assert restored(opened, 4) == memory(4, {80: GONE, 160: kept, 240: GONE})


def test_files_that_are_only_mapped_are_not_noted(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    (node.root / "usr/lib").mkdir(parents=True)
    (node.root / "usr/lib/mapped.so").touch()
    directory = Kernel(tmp_path).dump(bytes(PAGE), node)
    noted = OpenFiles.read(directory)
    assert [file.path for file in noted.files] == [DATABASE.path, SECOND.path]


def test_no_link_leads_out_of_the_tree(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").touch()
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for path in (b"/directory/secret", b"/file", b"/../outside/secret", b"/", b"/none/at/all"):
        assert identity_below(root, path) is None
    (root / "own").touch()
    assert identity_below(root, b"/own") == (
        (root / "own").stat().st_dev,
        os.stat(root / "own").st_ino,
    )


@pytest.mark.parametrize("text", ["", "[]", '{"version":1,"files":[],"marks":[["p",8,0]]}'])
def test_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / OPEN_FILES).write_text(text)
    with pytest.raises(Damaged, match="list of open files"):
        OpenFiles.read(tmp_path)


def test_files_image_that_is_cut_short_is_named(tmp_path: Path) -> None:
    write_descriptors(tmp_path, {7: DATABASE.path})
    (tmp_path / "files.img").write_bytes((tmp_path / "files.img").read_bytes()[:-3])
    with pytest.raises(InvalidImage, match=r"files\.img"):
        note_open_files(tmp_path, tmp_path)


def test_lock_that_says_a_database_is_in_use_alone_outlives_a_dump(tmp_path: Path) -> None:
    def lock(kind: int, fd: int, start: int, read: int = 0) -> bytes:
        start_bytes = bytes([start & 127 | 128, start >> 7])
        return b"\x08%c\x10%c\x18\x05\x20%c\x28%s\x30\x01" % (kind, read, fd, start_bytes)

    write_descriptors(tmp_path, {7: "/home/user/data.db-shm", 8: DATABASE.path})
    locks = [(1, 7, 128), (1, 8, 128), (1, 7, 129), (1, 7, 128, 1), (2, 7, 128)]
    (tmp_path / "filelocks.img").write_bytes(image_file([lock(*one) for one in locks]))
    keep_locks(tmp_path)
    kept = image_file([lock(4, 7, 128), *(lock(*one) for one in locks[1:])])
    assert (tmp_path / "filelocks.img").read_bytes() == kept
    keep_locks(tmp_path)
    assert (tmp_path / "filelocks.img").read_bytes() == kept
