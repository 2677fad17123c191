"""Restoring a file tree where one entry cannot be: the others are, and it is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import FilesNotWritten
from checkpoint.files import Tree, materialize, scan
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
LONG_NAME = "d" * 220
DEPTH = 40
"""Twice what a path can say."""


@pytest.fixture
def writer() -> Iterator[Writer]:
    with Writer(Memory(), KEYS) as writer:
        yield writer


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    root.mkdir()
    yield root
    shutil.rmtree(root)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def _stored(root: Path, writer: Writer) -> tuple[Tree, bytes, Reader]:
    tree = scan(root, None, writer)
    root_id = tree.store(writer)
    return tree, root_id, Reader(writer._store, KEYS, writer.finish())


def _deep(root: Path) -> int:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir(LONG_NAME, dir_fd=fd)
        below = os.open(LONG_NAME, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def _at_the_bottom(root: Path) -> int:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(DEPTH):
        below = os.open(LONG_NAME, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def _write(name: str, content: bytes, fd: int) -> None:
    out = os.open(name, os.O_WRONLY | os.O_CREAT, 0o640, dir_fd=fd)
    os.write(out, content)
    os.setxattr(out, "user.note", content)
    os.close(out)
    os.utime(name, ns=(1, 10**18), dir_fd=fd)


def test_tree_deeper_than_a_path_can_say_comes_back_exactly(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    (root / "above").write_bytes(b"above")
    bottom = _deep(root)
    _write("leaf", b"leaf", bottom)
    os.link("leaf", "second", src_dir_fd=bottom, dst_dir_fd=bottom)
    os.link(root / "above", "linked", dst_dir_fd=bottom)
    os.symlink("leaf", "symlink", dir_fd=bottom)
    os.mkfifo("fifo", 0o600, dir_fd=bottom)
    os.chmod(bottom, 0o500)
    os.close(bottom)
    tree, root_id, reader = _stored(root, writer)
    assert tree.skipped == []
    there = tmp_path / "restored"
    restored = materialize(reader, root_id, there)
    assert restored.problems == []
    fd = _at_the_bottom(there)
    try:
        assert sorted(os.listdir(fd)) == ["fifo", "leaf", "linked", "second", "symlink"]
        assert os.readlink("symlink", dir_fd=fd) == "leaf"
        leaf = os.open("leaf", os.O_RDONLY, dir_fd=fd)
        status = os.fstat(leaf)
        assert (os.read(leaf, 9), os.getxattr(leaf, "user.note")) == (b"leaf", b"leaf")
        os.close(leaf)
        assert (status.st_mtime_ns, status.st_mode & 0o777) == (10**18, 0o640)
        assert os.stat("second", dir_fd=fd).st_ino == status.st_ino
        assert os.stat("linked", dir_fd=fd).st_ino == (there / "above").stat().st_ino
        assert os.fstat(fd).st_mode & 0o777 == 0o500
    finally:
        os.close(fd)
    again = scan(there, restored.tree, writer)
    assert again.skipped == []
    shutil.rmtree(there)


@pytest.mark.needs("root")
def test_file_that_the_file_system_cannot_have_is_named_and_the_others_are_restored(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    """ext4 has no files of 2^44 bytes and more."""
    plain = tmp_path / "plain"
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    plain.mkdir()
    subprocess.run(["mount", "-o", "loop", image, plain], check=True)
    try:
        source = tmp_path / "source"
        source.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source], check=True)
        try:
            (source / "before").write_bytes(b"before")
            with (source / "huge").open("wb") as huge:
                huge.truncate(1 << 60)
            os.link(source / "huge", source / "linked")
            (source / "after").write_bytes(b"after")
            _, root_id, reader = _stored(source, writer)
        finally:
            subprocess.run(["umount", source], check=True)
        restored = materialize(reader, root_id, plain / "there")
        assert {p.path for p in restored.problems} == {b"huge", b"linked"}
        assert "too large" in restored.problems[0].reason
        assert sorted(p.name for p in (plain / "there").iterdir()) == ["after", "before"]
        assert (plain / "there" / "after").read_bytes() == b"after"
        again = scan(plain / "there", restored.tree, writer)
        root_id = again.store(writer)
        reader = Reader(writer._store, KEYS, writer.finish())
        assert materialize(reader, root_id, tmp_path / "again").problems == []
        assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["after", "before"]
    finally:
        subprocess.run(["umount", plain], check=True)


@pytest.mark.needs("root")
def test_full_file_system_is_said_in_words(root: Path, small: Path, writer: Writer) -> None:
    for number in range(10):
        (root / f"{number}").write_bytes(os.urandom(1 << 20))
    _, root_id, reader = _stored(root, writer)
    with pytest.raises(FilesNotWritten, match="No space left"):
        materialize(reader, root_id, small / "there")
