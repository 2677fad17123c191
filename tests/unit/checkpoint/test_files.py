from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import FileTreeError, StoreFull
from checkpoint.files import Kind, Tree, TreeView, materialize, scan, scanned
from checkpoint.files import key as key_module
from checkpoint.files.content import SEGMENT
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
LONG_AGO = 1_600_000_000_123_456_789


@pytest.fixture
def writer() -> Iterator[Writer]:
    with Writer(Memory(), KEYS) as writer:
        yield writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def _noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _store(root: Path, writer: Writer, previous: Tree | None = None) -> tuple[Tree, bytes, Reader]:
    tree = scan(root, previous, writer)
    root_id = tree.store(writer)
    return tree, root_id, Reader(writer._store, KEYS, writer.finish())


def _wait_for_tick(root: Path) -> None:
    """Until the file system's clock is safely past everything in `root`."""
    newest = max(path.lstat().st_ctime_ns for path in [root, *root.rglob("*")])
    probe = root.parent / "clock"
    while True:
        probe.write_bytes(b"x")
        if probe.stat().st_ctime_ns > newest + 60_000_000:
            return


def _described(root: Path) -> dict[bytes, object]:
    """Everything about a tree that must come back."""
    found: dict[bytes, object] = {}
    inodes: dict[int, bytes] = {}
    for directory, names, files in sorted(os.walk(os.fsencode(root))):
        files.sort()
        for path in [directory, *(os.path.join(directory, name) for name in [*names, *files])]:
            status = os.lstat(path)
            name = os.path.relpath(path, os.fsencode(root))
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = (file.read(), inodes.setdefault(status.st_ino, name))
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            )
            rdev = status.st_rdev if status.st_mode & 0o060000 == 0o020000 else 0
            owner = (status.st_uid, status.st_gid)
            found[name] = (status.st_mode, owner, status.st_mtime_ns, rdev, xattrs, content)
    return found


def _odd_tree(root: Path) -> None:
    raw = os.fsencode(root)
    (root / "empty").write_bytes(b"")
    (root / "text.txt").write_text("hello\n")
    (root / "big").write_bytes(_noise(1, 3_000_000))
    (root / "many-segments").write_bytes(_noise(2, 20 * (256 << 10) + 17))
    os.makedirs(root / "a" / "b" / "c")
    (root / "a" / "b" / "c" / "deep").write_bytes(b"deep")
    (root / "empty-directory").mkdir()
    os.mkdir(raw + b"/not \xff utf-8\n")
    with open(raw + b"/not \xff utf-8\n/\xfe", "wb") as file:
        file.write(b"x")
    (root / "link").symlink_to("a/b")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.symlink(b"\xff\xfe", raw + b"/odd-target")
    (root / "first-name").write_bytes(b"linked")
    os.link(root / "first-name", root / "a" / "second-name")
    os.link(root / "dangling", root / "a" / "linked-symlink", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    with (root / "sparse").open("wb") as sparse:
        sparse.truncate(50 << 20)
        sparse.seek(10 << 20)
        sparse.write(b"in the middle")
    with (root / "all-hole").open("wb") as hole:
        hole.truncate(1 << 20)
    (root / "script").write_bytes(b"#!/bin/sh\n")
    os.chmod(root / "script", 0o4755)
    os.chmod(root / "a" / "b", 0o1500)
    os.setxattr(root / "text.txt", "user.note", b"\0binary")
    for at, path in enumerate([*root.rglob("*"), root]):
        os.utime(path, ns=(LONG_AGO, LONG_AGO + at), follow_symlinks=False)


def test_odd_tree_comes_back_exactly(root: Path, tmp_path: Path, writer: Writer) -> None:
    _odd_tree(root)
    _, root_id, reader = _store(root, writer)
    restored = materialize(reader, root_id, tmp_path / "restored")
    assert restored.problems == []
    assert _described(tmp_path / "restored") == _described(root)
    assert (tmp_path / "restored" / "sparse").stat().st_blocks * 512 < 1 << 20
    assert (tmp_path / "restored" / "all-hole").stat().st_blocks == 0


@pytest.mark.needs("root")
def test_owners_devices_and_overlay_marks_come_back(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    (root / "opaque").mkdir()
    os.setxattr(root / "opaque", "trusted.overlay.opaque", b"y")
    os.mknod(root / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "theirs").write_bytes(b"x")
    os.chown(root / "theirs", 61000, 61001)
    os.chmod(root / "theirs", 0o6711)
    (root / "link").symlink_to("theirs")
    os.chown(root / "link", 61000, 61000, follow_symlinks=False)
    os.chown(root, 61000, 61000)
    _, root_id, reader = _store(root, writer)
    assert materialize(reader, root_id, tmp_path / "restored").problems == []
    assert _described(tmp_path / "restored") == _described(root)


def test_second_pass_reads_and_copies_only_what_changed_in_between(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    _odd_tree(root)
    _wait_for_tick(root)
    first = scan(root, None, writer)
    assert first.read_bytes > 8_000_000
    (root / "text.txt").write_text("changed\n")
    (root / "new").write_bytes(b"new")
    (root / "empty").unlink()
    second = scan(root, first, writer, copy=True)
    assert second.read_bytes == second.copied_bytes == len("changed\n") + len("new")
    # The processes run again, and change what was copied: the copy counts.
    expected = _described(root)
    (root / "text.txt").write_text("changed again\n")
    (root / "new").unlink()
    root_id = second.store(writer)
    materialize(Reader(writer._store, KEYS, writer.finish()), root_id, tmp_path / "restored")
    assert _described(tmp_path / "restored") == expected


def test_unchanged_tree_is_neither_read_nor_written(root: Path, writer: Writer) -> None:
    _odd_tree(root)
    _wait_for_tick(root)
    first, first_id, _ = _store(root, writer)
    written = writer.written_bytes
    second, second_id, _ = _store(root, writer, first)
    assert second.read_bytes == 0
    assert second_id == first_id
    assert writer.written_bytes == written


def test_change_in_one_directory_leaves_the_others_as_they_are(root: Path, writer: Writer) -> None:
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"x")
    _wait_for_tick(root)
    first, root_id, reader = _store(root, writer)
    before = TreeView(reader, root_id).list("")
    (root / "two" / "file").write_bytes(b"y")
    second, root_id, reader = _store(root, writer, first)
    after = TreeView(reader, root_id).list("")
    assert second.read_bytes == 1
    assert after[b"one"] == before[b"one"]
    assert after[b"two"].content != before[b"two"].content


def test_large_file_costs_its_changes_also_when_copied(root: Path, writer: Writer) -> None:
    """One piece of it, and that part of the list of pieces which says where it is."""
    (root / "data").write_bytes(_noise(1, 80 << 20))
    _wait_for_tick(root)
    first, _, _ = _store(root, writer)
    written = writer.written_bytes
    with (root / "data").open("r+b") as file:
        file.seek(12_345_678)
        file.write(b"changed")
    second = scan(root, first, writer, copy=True)
    assert second.read_bytes == 80 << 20
    assert second.copied_bytes == SEGMENT
    root_id = second.store(writer)
    reader = Reader(writer._store, KEYS, writer.finish())
    assert writer.written_bytes - written < SEGMENT + 13_000  # the whole list has 28 kB
    assert TreeView(reader, root_id).read("data") == (root / "data").read_bytes()


def test_file_stored_in_larger_pieces_stays_so_until_it_changes(
    root: Path, tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As checkpoints of earlier versions have it: 256 KiB, and the list in one chunk."""
    content = _noise(2, 6 << 20)
    for name in ("changes", "stays"):
        (root / name).write_bytes(content + name.encode())
    with monkeypatch.context() as earlier:
        earlier.setattr("checkpoint.files.content.SEGMENT", 256 << 10)
        earlier.setattr("checkpoint.files.scanned.LISTED", 256 << 10)
        _, root_id, reader = _store(root, writer)
        tree = materialize(reader, root_id, tmp_path / "restored").tree
        _wait_for_tick(tmp_path / "restored")
        tree = scan(tmp_path / "restored", tree, writer)
    assert _described(tmp_path / "restored") == _described(root)
    stays = TreeView(reader, root_id).list("")[b"stays"]
    with (tmp_path / "restored" / "changes").open("r+b") as file:
        file.write(b"changed")
    after, root_id, reader = _store(tmp_path / "restored", writer, tree)
    assert after.read_bytes == len(content) + len("changes")
    assert TreeView(reader, root_id).list("")[b"stays"].content == stays.content
    materialize(reader, root_id, tmp_path / "again")
    assert _described(tmp_path / "again") == _described(tmp_path / "restored")


def test_file_read_in_the_tick_of_its_last_change_is_read_again(root: Path, writer: Writer) -> None:
    """A second change in that tick would leave no trace in the time stamps."""
    (root / "file").write_bytes(b"one")
    first = scan(root, None, writer)
    assert scan(root, first, writer).read_bytes == 3
    _wait_for_tick(root)
    settled = scan(root, first, writer)
    assert settled.read_bytes == 3
    assert scan(root, settled, writer).read_bytes == 0


def test_file_named_for_it_is_read_though_it_looks_unchanged(root: Path, writer: Writer) -> None:
    (root / "mapped").write_bytes(b"x" * 4096)
    _wait_for_tick(root)
    tree = scan(root, None, writer)
    assert scan(root, tree, writer).read_bytes == 0
    assert scan(root, tree, writer, reread={b"mapped"}).read_bytes == 4096


def test_more_than_fits_in_memory_is_copied_to_a_file(
    root: Path, tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanned, "COPIED_IN_MEMORY", 1 << 20)
    for at in range(4):
        (root / str(at)).write_bytes(_noise(at, 700_000))
    tree = scan(root, None, writer, copy=True, spill=tmp_path)
    expected = _described(root)
    for at in range(4):
        (root / str(at)).write_bytes(b"overwritten")
    root_id = tree.store(writer)
    materialize(Reader(writer._store, KEYS, writer.finish()), root_id, tmp_path / "restored")
    assert {name: value[5] for name, value in _described(tmp_path / "restored").items()} == {
        name: value[5] for name, value in expected.items()
    }
    monkeypatch.setattr(scanned, "COPIED_IN_MEMORY", 0)
    with pytest.raises(StoreFull, match="cannot be kept"):
        scan(root, None, writer, copy=True, spill="/proc")


def test_what_cannot_be_saved_is_listed_and_the_rest_is_saved(root: Path, writer: Writer) -> None:
    (root / "kept").write_bytes(b"x")
    os.mkdir(root / "run")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "run" / "socket"))
        tree, root_id, reader = _store(root, writer)
    assert tree.skipped == [(b"run/socket", "sockets cannot be saved")]
    assert list(TreeView(reader, root_id).list("")) == [b"kept", b"run"]


def test_excluded_paths_are_left_out_with_all_below(root: Path, writer: Writer) -> None:
    for name in ("cache/a", "kept/cache/b", "kept/out"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    tree = scan(root, None, writer, exclude={b"cache", b"kept/out"})
    root_id = tree.store(writer)
    view = TreeView(Reader(writer._store, KEYS, writer.finish()), root_id)
    assert list(view.list("")) == [b"kept"]
    assert list(view.list("kept")) == [b"cache"]


@pytest.mark.parametrize("name", ["directory", "file"])
def test_scan_does_not_follow_a_link_put_in_place_of_what_it_looked_at(
    root: Path, tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "inner").write_bytes(b"secret")
    (root / "directory").mkdir()
    for path in ("directory/inner", "file"):
        (root / path).write_bytes(b"public")
    really_open = os.open

    def swap_and_open(path: object, flags: int, *, dir_fd: int | None = None) -> int:
        if path == name.encode() and not (root / name).is_symlink():
            (root / name).rename(tmp_path / "aside")
            (root / name).symlink_to(outside if name == "directory" else outside / "inner")
        return really_open(path, flags, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swap_and_open)
    tree = scan(root, None, writer, copy=True)
    assert (root / name).is_symlink()
    assert tree.copies is not None
    assert b"secret" not in tree.copies.read(0, 1 << 20)
    assert [path for path, _ in tree.skipped] == [name.encode()]


def test_scan_goes_on_from_a_materialized_tree_without_reading_it(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    _odd_tree(root)
    _, root_id, reader = _store(root, writer)
    restored = materialize(reader, root_id, tmp_path / "restored").tree
    assert scan(tmp_path / "restored", restored, writer, copy=True).read_bytes < 12_000_000
    _wait_for_tick(tmp_path / "restored")
    settled = scan(tmp_path / "restored", restored, writer)
    again = scan(tmp_path / "restored", settled, writer)
    assert again.read_bytes == 0
    assert again.store(writer) == settled.store(writer)


def test_files_of_several_names_stay_so_over_nodes_and_changes(
    root: Path, tmp_path: Path, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (root / name).mkdir()
    (root / "one" / "file").write_bytes(b"x")
    os.link(root / "one" / "file", root / "two" / "file")
    _, root_id, reader = _store(root, writer)
    monkeypatch.setattr(key_module, "_TICK_NS", -(10**15))  # as if long ago: nothing is read again
    tree = materialize(reader, root_id, tmp_path / "restored").tree
    (tmp_path / "restored" / "two" / "other").write_bytes(b"y")
    second, root_id, reader = _store(tmp_path / "restored", writer, tree)
    assert second.read_bytes == 1
    materialize(reader, root_id, tmp_path / "again")
    status = (tmp_path / "again" / "one" / "file").stat()
    assert status.st_ino == (tmp_path / "again" / "two" / "file").stat().st_ino
    assert status.st_nlink == 2


def test_tree_of_an_aborted_checkpoint_is_stored_in_full_by_the_next(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    _odd_tree(root)
    _wait_for_tick(root)
    aborted = scan(root, None, writer)
    aborted.store(writer)
    writer.abort()
    _, root_id, reader = _store(root, writer, aborted)
    materialize(reader, root_id, tmp_path / "restored")
    assert _described(tmp_path / "restored") == _described(root)


def test_root_that_is_no_directory_or_not_empty_is_refused(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    (root / "file").write_bytes(b"x")
    for path in (root / "file", root / "nothing"):
        with pytest.raises(FileTreeError, match=path.name):
            scan(path, None, writer)
    _, root_id, reader = _store(root, writer)
    with pytest.raises(FileTreeError, match="not empty"):
        materialize(reader, root_id, root)


def test_browser_reads_any_part_of_the_store(root: Path, writer: Writer) -> None:
    _odd_tree(root)
    tree, root_id, reader = _store(root, writer)
    assert tree.skipped == []
    view = TreeView(reader, root_id)
    assert list(view.list("/")) == sorted(os.listdir(os.fsencode(root)))
    assert view.stat("text.txt").size == 6
    assert view.read("/text.txt") == b"hello\n"
    assert view.read("link/c/deep") == b"deep"
    assert view.read("a/../link/./c//deep", 1, 2) == b"ee"
    assert view.stat("link").kind is Kind.SYMLINK
    assert view.stat("link", follow=True).kind is Kind.DIRECTORY
    assert view.stat("") == view.stat("../..")
    assert view.read(b"not \xff utf-8\n/\xfe") == b"x"
    big = (root / "many-segments").read_bytes()
    for start, length in ((0, None), (262_143, 3), (262_144, 600_000), (len(big) - 5, 99)):
        end = None if length is None else start + length
        assert view.read("many-segments", start, length) == big[start:end]
    assert view.read("many-segments", len(big) + 1) == b""
    assert view.read("sparse", (10 << 20) - 2, 6) == b"\0\0in t"


def test_browser_says_what_is_not_there(root: Path, writer: Writer) -> None:
    (root / "file").write_bytes(b"x")
    (root / "loop").symlink_to("loop")
    _, root_id, reader = _store(root, writer)
    view = TreeView(reader, root_id)
    for call, text in (
        (lambda: view.read("nothing"), "'nothing' does not exist"),
        (lambda: view.read("file/below"), "no directory"),
        (lambda: view.list("file"), "'file' is not a directory"),
        (lambda: view.read(""), "is not a file"),
        (lambda: view.read("loop"), "too many links"),
    ):
        with pytest.raises(FileTreeError, match=text):
            call()


def test_large_file_renamed_before_a_cut_is_compared_and_not_copied(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    content = _noise(9, 4 << 20)
    (root / "large").write_bytes(content)
    _wait_for_tick(root)
    before = scan(root, None, writer)
    (root / "large").rename(root / "renamed")
    os.chmod(root / "renamed", 0o600)
    with (root / "renamed").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"changed")
    os.utime(root / "renamed", ns=(LONG_AGO, LONG_AGO))  # nor is it believed that nothing changed
    cut = scan(root, before, writer, copy=True, spill=tmp_path)
    assert (cut.read_bytes, cut.copied_bytes) == (4 << 20, SEGMENT)
    root_id = cut.store(writer)
    reader = Reader(writer._store, KEYS, writer.finish())
    materialize(reader, root_id, tmp_path / "restored")
    wanted = content[: 1 << 20] + b"changed" + content[(1 << 20) + 7 :]
    assert (tmp_path / "restored" / "renamed").read_bytes() == wanted
