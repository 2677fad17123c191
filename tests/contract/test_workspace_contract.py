"""What file operations on a workspace do, whether a node has it or only its checkpoint is there.

The live one is a directory, the stored one a checkpoint's files with recorded writes on top. A
user must not be able to tell them apart: same results, same error codes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from workspace_model import Model

from checkpoint import files
from checkpoint.blobs import Memory
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.agent.workspace import LiveWorkspace
from sessionkeeper.keeper.stored import StoredWorkspace
from sessionkeeper.keeper.stored_files import StoredFiles
from sessionkeeper.keeper.writes import Write

HOME = "/home/somebody"
Fill = Callable[[Path], None]


class Live:
    """A workspace on a node."""

    def __init__(self, base: Path, fill: Fill) -> None:
        root = base / "live"
        home = root / HOME.lstrip("/")
        home.mkdir(parents=True)
        fill(home)
        self.workspace = LiveWorkspace(root, HOME, None)

    def stat(self, path: str) -> dict[str, Any]:
        return self.workspace.stat(path)

    def list(self, path: str) -> list[dict[str, Any]]:
        return self.workspace.list(path)

    def read(self, path: str, start: int = 0, length: int = 1 << 20) -> bytes:
        return self.workspace.read(path, start, length)

    def apply(
        self,
        operation: str,
        path: str,
        *,
        to: str = "",
        recursive: bool = False,
        data: bytes = b"",
    ) -> None:
        if operation in {"write", "append"}:
            self.workspace.write(path, lambda f: f.write(data), append=operation == "append")
        elif operation == "mkdir":
            self.workspace.mkdir(path)
        elif operation == "delete":
            self.workspace.delete(path, recursive=recursive)
        else:
            getattr(self.workspace, operation)(path, to)

    def close(self) -> None:
        """There is nothing to close."""


class Stored:
    """The same, without compute: a checkpoint of what ``fill`` makes, with writes on top."""

    def __init__(self, base: Path, fill: Fill) -> None:
        tree = base / "stored"
        home = tree / HOME.lstrip("/")
        home.mkdir(parents=True)
        fill(home)
        repository = Repository.open(Memory(), "one", MasterKey(bytes(32)))
        with repository.writer(None) as writer:
            root = files.scan(tree, None, writer, copy=True).store(writer)
            packs = writer.finish()
        manifest = Manifest(1, 1, None, 0.0, Body(packs, root))
        shutil.rmtree(tree)
        self._reader = repository.reader(manifest)
        view = files.TreeView(self._reader, root)
        self._data: dict[int, bytes] = {}
        self.workspace = StoredWorkspace(StoredFiles(view, HOME), [], self._read_write)

    def _read_write(self, write: Write) -> Callable[[int, int], bytes]:
        data = self._data[write.number]
        return lambda start, length: data[start : start + length]

    def stat(self, path: str) -> dict[str, Any]:
        found = self.workspace.stat(path)
        return {"name": found.name, "type": found.kind, "size": found.size}

    def list(self, path: str) -> list[dict[str, Any]]:
        found = self.workspace.list(path)
        return [{"name": s.name, "type": s.kind, "size": s.size} for s in found]

    def read(self, path: str, start: int = 0, length: int = 1 << 20) -> bytes:
        return self.workspace.read(path, start, length)

    def apply(
        self,
        operation: Any,
        path: str,
        *,
        to: str = "",
        recursive: bool = False,
        data: bytes = b"",
    ) -> None:
        number = len(self._data) + 1
        self._data[number] = data
        self.workspace.apply(Write(number, operation, path, to, recursive, len(data)))

    def close(self) -> None:
        self._reader.close()


AnyWorkspace = Live | Stored
KINDS: dict[str, type[Live] | type[Stored]] = {"live": Live, "stored": Stored}


def code(call: Callable[[], Any]) -> str:
    try:
        call()
    except FileRefused as error:
        return error.code if str(error) else "without words"
    return "done"


def a_few_files(home: Path) -> None:
    (home / "data").mkdir()
    (home / "data" / "inner").mkdir()
    (home / "data" / "a.csv").write_bytes(b"1,2,3\n")
    (home / "note.txt").write_bytes(b"hello")
    (home / "empty").mkdir()
    (home / "to-note").symlink_to("note.txt")
    (home / "to-data").symlink_to("data")
    (home / "to-nothing").symlink_to("nothing")


@pytest.fixture(params=KINDS)
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyWorkspace]:
    made = KINDS[request.param](tmp_path, a_few_files)
    yield made
    made.close()


def names(workspace: AnyWorkspace, path: str = "") -> list[str]:
    return [entry["name"] for entry in workspace.list(path)]


def test_files_of_the_checkpoint_are_there(workspace: AnyWorkspace) -> None:
    assert names(workspace, "data") == ["a.csv", "inner"]
    assert workspace.stat("note.txt")["size"] == 5
    assert workspace.stat("data")["type"] == "directory"
    assert workspace.stat("")["type"] == "directory"
    assert workspace.read("data/a.csv", 2, 3) == b"2,3"
    assert workspace.read("data/a.csv", 4, 100) == b"3\n"
    assert workspace.read("note.txt", 99, 1) == b""


def test_links_are_what_they_lead_to(workspace: AnyWorkspace) -> None:
    types = {e["name"]: e["type"] for e in workspace.list("")}
    assert types["to-note"] == "file"
    assert types["to-data"] == "directory"
    assert types["to-nothing"] == "symlink-broken"
    assert workspace.stat("to-note")["size"] == 5
    assert workspace.read("to-note") == b"hello"
    assert names(workspace, "to-data") == ["a.csv", "inner"]
    assert workspace.read("to-data/a.csv") == b"1,2,3\n"
    assert code(lambda: workspace.read("to-nothing")) == "not_found"


def test_deleting_a_link_leaves_what_it_leads_to(workspace: AnyWorkspace) -> None:
    workspace.apply("delete", "to-data")
    workspace.apply("delete", "to-note", recursive=True)
    assert {"to-data", "to-note"}.isdisjoint(names(workspace))
    assert names(workspace, "data") == ["a.csv", "inner"]
    assert workspace.read("note.txt") == b"hello"


def test_writing_to_a_link_replaces_the_link(workspace: AnyWorkspace) -> None:
    workspace.apply("write", "to-note", data=b"new")
    assert workspace.read("to-note") == b"new"
    assert workspace.read("note.txt") == b"hello"
    assert code(lambda: workspace.apply("append", "to-nothing", data=b"x")) == "refused"


def test_write_replaces_append_adds(workspace: AnyWorkspace) -> None:
    workspace.apply("write", "note.txt", data=b"new")
    workspace.apply("append", "note.txt", data=b"er")
    workspace.apply("append", "data/a.csv", data=b"4\n")
    workspace.apply("append", "made.txt", data=b"by appending")
    assert workspace.read("note.txt") == b"newer"
    assert workspace.read("note.txt", 2, 2) == b"we"
    assert workspace.read("data/a.csv") == b"1,2,3\n4\n"
    assert workspace.stat("data/a.csv")["size"] == 8
    assert workspace.read("made.txt") == b"by appending"


def test_a_renamed_directory_takes_its_files_along(workspace: AnyWorkspace) -> None:
    workspace.apply("write", "data/new", data=b"new")
    workspace.apply("rename", "data", to="empty/moved")
    assert names(workspace, "empty/moved") == ["a.csv", "inner", "new"]
    assert workspace.read("empty/moved/a.csv") == b"1,2,3\n"
    assert code(lambda: workspace.stat("data")) == "not_found"
    assert workspace.stat("empty/moved")["name"] == "moved"


def test_a_copy_and_its_original_go_their_own_ways(workspace: AnyWorkspace) -> None:
    workspace.apply("copy", "note.txt", to="data/copy.txt")
    workspace.apply("append", "note.txt", data=b"!")
    assert workspace.read("data/copy.txt") == b"hello"
    workspace.apply("delete", "note.txt")
    assert workspace.read("data/copy.txt") == b"hello"


@pytest.mark.parametrize(
    ("expected", "operation", "path", "to"),
    [
        ("not_found", "delete", "nothing", ""),
        ("not_found", "write", "nothing/file", ""),
        ("not_found", "mkdir", "nothing/directory", ""),
        ("not_found", "rename", "nothing", "note.txt"),
        ("not_found", "copy", "nothing", "note.txt"),
        ("not_found", "rename", "nothing", "note.txt/x"),
        ("not_found", "rename", "note.txt", "nothing/x"),
        ("not_a_directory", "write", "note.txt/x", ""),
        ("not_a_directory", "write", "note.txt/x/y", ""),
        ("not_a_directory", "mkdir", "note.txt/x", ""),
        ("not_a_directory", "delete", "note.txt/x", ""),
        ("not_a_directory", "rename", "data", "note.txt/x"),
        ("is_a_directory", "write", "data", ""),
        ("is_a_directory", "append", "data", ""),
        ("is_a_directory", "copy", "data", "elsewhere"),
        ("is_a_directory", "copy", "data", "note.txt"),
        ("exists", "mkdir", "data", ""),
        ("exists", "mkdir", "note.txt", ""),
        ("exists", "rename", "data", "note.txt"),
        ("exists", "rename", "note.txt", "note.txt"),
        ("exists", "copy", "note.txt", "data"),
        ("not_empty", "delete", "data", ""),
        ("refused", "rename", "data", "data/inner/data"),
        ("refused", "delete", "", ""),
        ("refused", "write", "", ""),
        ("refused", "rename", "", "x"),
        ("refused", "rename", "note.txt", ""),
        ("refused", "mkdir", "..", ""),
        ("refused", "write", "../x", ""),
        ("refused", "write", "data/../../x", ""),
        ("refused", "write", "a\0b", ""),
        ("refused", "copy", "note.txt", "../x"),
    ],
)
def test_refusal_says_why_and_changes_nothing(
    workspace: AnyWorkspace, expected: str, operation: str, path: str, to: str
) -> None:
    before = everything(workspace)
    assert code(lambda: workspace.apply(operation, path, to=to)) == expected
    assert everything(workspace) == before


def test_the_workspace_itself_is_never_deleted(workspace: AnyWorkspace) -> None:
    before = everything(workspace)
    for path in ("", "/", ".", "data/../..", "data/.."):
        assert code(lambda p=path: workspace.apply("delete", p, recursive=True)) == "refused"
    assert everything(workspace) == before


@pytest.mark.parametrize(
    ("expected", "what", "path"),
    [
        ("not_found", "stat", "nothing"),
        ("not_found", "list", "nothing"),
        ("not_found", "read", "nothing/x"),
        ("not_a_directory", "list", "note.txt"),
        ("not_a_directory", "stat", "note.txt/x"),
        ("not_a_directory", "read", "note.txt/x"),
        ("is_a_directory", "read", "data"),
        ("is_a_directory", "read", ""),
        ("refused", "stat", ".."),
        ("refused", "list", "data/../.."),
        ("refused", "read", "../../etc/passwd"),
    ],
)
def test_reading_what_is_not_there_says_so(
    workspace: AnyWorkspace, expected: str, what: str, path: str
) -> None:
    assert code(lambda: getattr(workspace, what)(path)) == expected


def test_names_may_be_any_bytes(workspace: AnyWorkspace) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff\n.txt")
    workspace.apply("write", odd, data=b"odd")
    workspace.apply("copy", odd, to=f"{odd}2")
    assert odd in names(workspace)
    assert workspace.read(f"{odd}2") == b"odd"


def test_longest_name_can_be_written(workspace: AnyWorkspace) -> None:
    name = "é" * 127
    workspace.apply("write", name, data=b"1")
    workspace.apply("write", name, data=b"2")
    assert workspace.read(name) == b"2"


def everything(workspace: AnyWorkspace) -> dict[str, tuple[str, bytes]]:
    """Every path with its type, and content if it is a file."""
    found: dict[str, tuple[str, bytes]] = {}

    def walk(path: str) -> None:
        for entry in workspace.list(path):
            inside = f"{path}/{entry['name']}".lstrip("/")
            content = workspace.read(inside) if entry["type"] == "file" else b""
            if entry["type"] == "file":
                assert entry["size"] == len(content)
            found[inside] = (entry["type"], content)
            if entry["type"] == "directory":
                walk(inside)

    walk("")
    return found


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


class SameWhereverItIs(RuleBasedStateMachine):
    """Any operations, in any order: live, stored and model stay the same."""

    @initialize(paths=st.lists(PATHS, max_size=5, unique=True))
    def begin(self, paths: list[str]) -> None:
        self.base = Path(tempfile.mkdtemp())
        self.model = Model()

        def fill(home: Path) -> None:
            for number, path in enumerate(paths):
                if self.model.apply("mkdir" if number % 2 else "write", path, data=b"base") in (
                    "done",
                    "exists",
                ):
                    whole = home / path
                    if number % 2:
                        whole.mkdir(exist_ok=True)
                    else:
                        whole.write_bytes(b"base")

        self.live = Live(self.base, fill)
        self.model = Model()
        self.stored = Stored(self.base, fill)

    @rule(
        operation=st.sampled_from(["write", "append", "mkdir", "delete", "rename", "copy"]),
        path=PATHS,
        to=PATHS,
        recursive=st.booleans(),
        data=st.binary(max_size=3),
    )
    def change(self, operation: str, path: str, to: str, recursive: bool, data: bytes) -> None:
        facts: dict[str, Any] = {"to": to, "recursive": recursive, "data": data}
        expected = self.model.apply(operation, path, **facts)
        assert code(lambda: self.live.apply(operation, path, **facts)) == expected
        assert code(lambda: self.stored.apply(operation, path, **facts)) == expected

    @invariant()
    def all_are_the_same(self) -> None:
        if hasattr(self, "base"):
            assert everything(self.live) == self.model.everything()
            assert everything(self.stored) == self.model.everything()

    def teardown(self) -> None:
        if hasattr(self, "base"):
            self.stored.close()
            shutil.rmtree(self.base)


TestSameWhereverItIs = SameWhereverItIs.TestCase
TestSameWhereverItIs.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, derandomize=True
)
