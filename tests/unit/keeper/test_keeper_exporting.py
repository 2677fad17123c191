"""What is exported of a session: the newest checkpoint's files with what was saved since on top."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import Damaged
from checkpoint.files import TreeView, scan
from checkpoint.keys import MasterKey
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from sessionkeeper.archive import write
from sessionkeeper.keeper.exporting import Recorded, members
from sessionkeeper.keeper.stored_files import StoredFiles
from sessionkeeper.keeper.writes import WriteJournal

SESSION = {"session": "course", "checkpoint": 1}
VARIABLES = {"as_of": None, "kernels": []}


class Course:
    """A session's tree in a store, and its journal of writes."""

    def __init__(self, base: Path) -> None:
        self.tree = base / "tree"
        self.home = self.tree / "home" / "jovyan"
        self.home.mkdir(parents=True)
        self.journal = WriteJournal(base / "writes")
        self.store = Memory()
        self.repository = Repository.open(self.store, "course", MasterKey(bytes(32)))

    def saved(self) -> StoredFiles:
        with self.repository.writer(None) as writer:
            root = scan(self.tree, None, writer, copy=True).store(writer)
            packs = writer.finish()
        reader = Reader(self.repository.blobs, self.repository.keys, packs)
        return StoredFiles(TreeView(reader, root), "/home/jovyan")

    def put(self, operation: str, path: str, content: bytes | None = None, **more: str) -> None:
        data = None
        if content is not None:
            data = self.journal.incoming()
            data.write_bytes(content)
        self.journal.record(operation, path, data=data, at=1e9, **more)  # type: ignore[arg-type]

    def tar(self, base: StoredFiles | None) -> tarfile.TarFile:
        recorded = Recorded.after(self.journal, 0)
        taken: list[bytes] = []
        write("tar.gz", members(SESSION, VARIABLES, base, recorded, same=True), taken.append)
        recorded.close()
        return tarfile.open(fileobj=io.BytesIO(b"".join(taken)), errors="surrogateescape")


@pytest.fixture
def course(tmp_path: Path) -> Iterator[Course]:
    one = Course(tmp_path)
    yield one
    one.journal.close()


def test_files_links_and_permissions_are_those_of_the_workspace(
    course: Course, tmp_path: Path
) -> None:
    home = course.home
    (home / "data").mkdir(mode=0o700)
    (home / "data" / "large").write_bytes(os.urandom(3 << 20))
    (home / "data" / "again").hardlink_to(home / "data" / "large")
    (home / "run.sh").write_text("#!/bin/sh\n")
    (home / "run.sh").chmod(0o755)
    (home / "to-run").symlink_to("run.sh")
    (home / "to-data").symlink_to("data")
    (home / "broken").symlink_to("/nowhere")
    (home / os.fsdecode(b"\xff.txt")).write_text("x")
    os.truncate(home / "data" / "large", 5 << 20)
    os.mkfifo(home / "fifo")
    course.tar(course.saved()).extractall(tmp_path / "out")
    files = tmp_path / "out" / "course" / "files"
    assert (files / "data" / "large").read_bytes() == (home / "data" / "large").read_bytes()
    assert (files / "data" / "again").samefile(files / "data" / "large")
    assert (files / "data").stat().st_mode & 0o777 == 0o700
    assert (files / "run.sh").stat().st_mode & 0o777 == 0o755
    links = {name: os.readlink(files / name) for name in ("to-run", "to-data", "broken")}
    assert links == {"to-run": "run.sh", "to-data": "data", "broken": "/nowhere"}
    assert (files / os.fsdecode(b"\xff.txt")).read_text() == "x"
    left_out = json.loads((files.parent / "left-out.json").read_text())["left_out"]
    assert [one["path"] for one in left_out] == ["fifo"]
    assert json.loads((files.parent / "session.json").read_text()) == SESSION
    assert json.loads((files.parent / "variables.json").read_text()) == VARIABLES


def test_what_was_saved_after_the_checkpoint_is_in_it(course: Course) -> None:
    (course.home / "notes.txt").write_text("old")
    (course.home / "notes.txt").chmod(0o600)
    (course.home / "gone.txt").write_text("gone")
    (course.home / "here").mkdir()
    (course.home / "here" / "a.txt").write_text("a")
    base = course.saved()
    course.put("write", "notes.txt", b"new")
    course.put("append", "here/a.txt", b"bc")
    course.put("delete", "gone.txt")
    course.put("rename", "here", to="there")
    course.put("mkdir", "empty")
    with course.tar(base) as archive:
        found = {one.name.removeprefix("course/files/"): one for one in archive}
        assert {"notes.txt", "there", "there/a.txt", "empty"} <= found.keys()
        assert not {"gone.txt", "here", "here/a.txt"} & found.keys()
        assert archive.extractfile(found["notes.txt"]).read() == b"new"  # type: ignore[union-attr]
        assert archive.extractfile(found["there/a.txt"]).read() == b"abc"  # type: ignore[union-attr]
        assert found["notes.txt"].mode == 0o600


def test_writes_that_a_checkpoint_takes_over_meanwhile_are_still_read(course: Course) -> None:
    course.put("write", "notes.txt", b"new")
    recorded = Recorded.after(course.journal, 0)
    course.journal.release(course.journal.last)
    taken: list[bytes] = []
    write("zip", members(SESSION, VARIABLES, None, recorded, same=False), taken.append)
    with zipfile.ZipFile(io.BytesIO(b"".join(taken))) as archive:
        assert archive.read("course/files/notes.txt") == b"new"


def test_a_damaged_store_breaks_the_export_off(course: Course) -> None:
    (course.home / "large").write_bytes(os.urandom(1 << 20))
    base = course.saved()
    for key in list(course.store.list("sessions/course/packs/")):
        data = bytearray(course.store.get(key))
        course.store.delete(key)
        data[1000:2000] = bytes(1000)
        course.store.put(key, bytes(data))
    with pytest.raises(Damaged):
        course.tar(base)
