"""Any history of any tree: each checkpoint of it comes back as the tree was."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from checkpoint.blobs import Memory
from checkpoint.files import Tree, TreeView, materialize, scan
from checkpoint.files.content import SEGMENT, pieces_of
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
EDGES = (0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT, 17 * SEGMENT + 3)
offsets = st.sampled_from(EDGES) | st.integers(0, 18 * SEGMENT)
names = st.sampled_from([b"a", b"b", b"\xff", b"d/a", b"d/b", b"d/e/a"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(offsets, st.integers(1, SEGMENT)), max_size=4), offsets)
def test_pieces_of_a_file_are_its_data_cut_at_the_same_places(
    written: list[tuple[int, int]], size: int
) -> None:
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        for offset, length in written:
            os.pwrite(fd, b"x" * length, offset)
        os.ftruncate(fd, size)
        content = bytearray(size)
        end = 0
        for offset, data in pieces_of(fd, os.fstat(fd)):
            assert offset >= end
            assert data
            end = offset + len(data)
            assert offset // SEGMENT == (end - 1) // SEGMENT
            content[offset:end] = data
        assert content == os.pread(fd, size, 0)


def _described(root: bytes) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    inodes: dict[int, bytes] = {}
    for directory, below, files in os.walk(root):
        below.sort()
        for path in sorted(os.path.join(directory, name) for name in [*below, *files]):
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                first = inodes.setdefault(status.st_ino, path.removeprefix(root))
                content = (Path(os.fsdecode(path)).read_bytes(), first, status.st_nlink)
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            mtime = status.st_mtime_ns
            found[path.removeprefix(root)] = (status.st_mode, mtime, content)
    return found


class History(RuleBasedStateMachine):
    """A workspace, its checkpoints, and nodes it moves to."""

    def __init__(self) -> None:
        super().__init__()
        self.base = tempfile.mkdtemp()
        self.store = Memory()
        self.writer = Writer(self.store, KEYS)
        self.tree: Tree | None = None
        self.places = 0
        self.root = self._place()
        os.makedirs(self.root + b"/d/e")

    def _place(self) -> bytes:
        self.places += 1
        return os.fsencode(f"{self.base}/{self.places}")

    def _path(self, name: bytes) -> bytes:
        return self.root + b"/" + name

    @rule(name=names, offset=offsets, length=st.integers(0, SEGMENT), byte=st.integers(0, 255))
    def write(self, name: bytes, offset: int, length: int, byte: int) -> None:
        if os.path.islink(self._path(name)):
            os.unlink(self._path(name))
        fd = os.open(self._path(name), os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, bytes([byte]) * length, offset)
        os.close(fd)

    @rule(name=names, size=offsets)
    def truncate(self, name: bytes, size: int) -> None:
        if os.path.isfile(self._path(name)):
            os.truncate(self._path(name), size)

    @rule(name=names, to=names)
    def rename(self, name: bytes, to: bytes) -> None:
        if os.path.lexists(self._path(name)):
            os.rename(self._path(name), self._path(to))

    @rule(name=names, to=names)
    def link(self, name: bytes, to: bytes) -> None:
        if os.path.lexists(self._path(name)) and not os.path.lexists(self._path(to)):
            os.link(self._path(name), self._path(to), follow_symlinks=False)

    @rule(name=names, to=st.sampled_from([b"a", b"../x", b"\xfe"]))
    def symlink(self, name: bytes, to: bytes) -> None:
        if not os.path.lexists(self._path(name)):
            os.symlink(to, self._path(name))

    @rule(name=names)
    def unlink(self, name: bytes) -> None:
        if os.path.lexists(self._path(name)):
            os.unlink(self._path(name))

    @rule(name=names, mode=st.integers(0, 0o7777), mtime=st.integers(-(10**18), 4 * 10**18))
    def touch(self, name: bytes, mode: int, mtime: int) -> None:
        if os.path.isfile(self._path(name)) and not os.path.islink(self._path(name)):
            os.chmod(self._path(name), mode | 0o600)
            os.utime(self._path(name), ns=(mtime, mtime))

    @rule(copy=st.booleans(), move=st.booleans())
    def checkpoint(self, copy: bool, move: bool) -> None:
        self.tree = scan(self.root, self.tree, self.writer)
        if copy:
            self.tree = scan(self.root, self.tree, self.writer, copy=True)
        expected = _described(self.root)
        root_id = self.tree.store(self.writer)
        place = self._place()
        with Reader(self.store, KEYS, self.writer.finish()) as reader:
            restored = materialize(reader, root_id, place)
            assert restored.problems == []
            assert _described(place) == expected
            view = TreeView(reader, root_id)
            for name, (mode, _, content) in expected.items():  # type: ignore[misc]
                if stat.S_ISREG(mode):
                    assert view.read(name) == content[0]
        if move:
            self.root, self.tree = place, restored.tree

    def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.base)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
