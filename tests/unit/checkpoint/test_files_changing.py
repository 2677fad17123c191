"""Files that change while they are read: a content they had at one moment, or the user is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.files import Tree, TreeView, scan
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
content_module = sys.modules["checkpoint.files.content"]
PIECE = 256 << 10


@pytest.fixture
def writer() -> Iterator[Writer]:
    with Writer(Memory(), KEYS) as writer:
        yield writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def after_each_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Let something happen between two reads of a scan: called with how many there were."""
    really_read = os.pread

    def install(happen: Callable[[int], None]) -> None:
        reads = 0

        def read(fd: int, length: int, offset: int) -> bytes:
            nonlocal reads
            data = really_read(fd, length, offset)
            reads += 1
            happen(reads)
            return data

        monkeypatch.setattr(content_module.os, "pread", read)

    return install


def _content(tree: Tree, writer: Writer, name: str) -> bytes:
    root_id = tree.store(writer)
    with Reader(writer._store, KEYS, writer.finish()) as reader:
        return TreeView(reader, root_id).read(name)


def _change(path: Path, content: bytes, at: int) -> None:
    """Write, and make sure that it shows in the time stamps whatever their ticks are."""
    path.write_bytes(content)
    os.utime(path, ns=(at, at))


@pytest.mark.parametrize("copy", [False, True])
def test_file_that_changes_once_while_read_has_one_of_its_contents(
    root: Path,
    writer: Writer,
    after_each_read: Callable[[Callable[[int], None]], None],
    copy: bool,
) -> None:
    old, new = (bytes([letter]) * (3 * PIECE) for letter in b"on")
    _change(root / "file", old, 1)
    after_each_read(lambda reads: _change(root / "file", new, 2) if reads == 2 else None)
    tree = scan(root, None, writer, copy=copy)
    assert tree.torn == []
    assert _content(tree, writer, "file") == new


def test_file_that_never_stands_still_is_told_and_read_again_at_the_next_checkpoint(
    root: Path, writer: Writer, after_each_read: Callable[[Callable[[int], None]], None]
) -> None:
    _change(root / "busy", bytes(2 * PIECE), 1)
    (root / "quiet").write_bytes(b"x")
    going = [True]

    def happen(reads: int) -> None:
        if going[0]:
            _change(root / "busy", bytes([reads]) * (2 * PIECE), 1 + reads)

    after_each_read(happen)
    tree = scan(root, None, writer)
    assert tree.torn == [b"busy"]
    assert tree.read_bytes <= 3 * 2 * PIECE + 1
    going[0] = False
    again = scan(root, tree, writer)
    assert again.torn == []
    assert _content(again, writer, "busy") == (root / "busy").read_bytes()


@pytest.mark.parametrize("size", [0, PIECE // 2, 5 * PIECE])
def test_file_that_grows_or_shrinks_while_read_is_one_of_both(
    root: Path,
    writer: Writer,
    after_each_read: Callable[[Callable[[int], None]], None],
    size: int,
) -> None:
    _change(root / "file", b"o" * (3 * PIECE), 1)
    after_each_read(lambda reads: _change(root / "file", b"n" * size, 2) if reads == 1 else None)
    tree = scan(root, None, writer)
    assert tree.torn == []
    assert _content(tree, writer, "file") == b"n" * size


def test_large_file_is_not_read_over_and_over(
    root: Path, writer: Writer, after_each_read: Callable[[Callable[[int], None]], None]
) -> None:
    with (root / "large").open("wb") as file:
        file.write(b"x" * PIECE)
        file.truncate(1 << 30)
    after_each_read(lambda reads: os.utime(root / "large", ns=(reads, reads)))
    tree = scan(root, None, writer)
    assert tree.torn == [b"large"]
    assert tree.read_bytes == PIECE


def test_file_removed_while_read_is_still_whole(
    root: Path, writer: Writer, after_each_read: Callable[[Callable[[int], None]], None]
) -> None:
    (root / "file").write_bytes(b"o" * (2 * PIECE))
    after_each_read(lambda reads: (root / "file").unlink() if reads == 1 else None)
    tree = scan(root, None, writer)
    assert tree.torn == []
    assert _content(tree, writer, "file") == b"o" * (2 * PIECE)
