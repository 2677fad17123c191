"""The UI's file operations on a node are the session user's: what a kernel set up leads nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.agent.workspace import LiveWorkspace

USER = 61000
HOME = "/home/user"
pytestmark = pytest.mark.needs("root")

Ask = Callable[..., Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A session's root on a node, whose own directories are closed to the session's user."""
    root = tmp_path / "node" / "root"
    home = root / HOME.lstrip("/")
    home.mkdir(parents=True)
    os.chown(home, USER, USER)
    (root / "etc").mkdir()
    (root / "etc" / "shadow").write_text("the session's own")
    (root / "etc" / "shadow").chmod(0o600)
    (root / "etc" / "hostname").write_text("session")
    (tmp_path / "node").chmod(0o700)
    (tmp_path / "secret").write_text("of the node")
    return root


@pytest.fixture
def home(root: Path) -> Path:
    return root / HOME.lstrip("/")


@pytest.fixture
def ask(root: Path) -> Iterator[Ask]:
    """Call a method of the workspace as the agent does; the code when it is refused."""
    workspace = LiveWorkspace(root, HOME, USER)
    with workspace.executor(1) as threads:

        def call(method: str, *arguments: Any, **options: Any) -> Any:
            try:
                work = getattr(workspace, method)
                return threads.submit(lambda: work(*arguments, **options)).result(timeout=10)
            except FileRefused as error:
                return error.code

        yield call


def write(content: bytes) -> Callable[[Any], object]:
    return lambda file: file.write(content)


def test_what_the_ui_writes_belongs_to_the_user(ask: Ask, home: Path) -> None:
    assert ask("write", "x", write(b"1"))["type"] == "file"
    assert ask("mkdir", "d")["type"] == "directory"
    assert ask("copy", "x", "d/y")["size"] == 1
    for path in (home / "x", home / "d", home / "d" / "y"):
        assert (path.stat().st_uid, path.stat().st_gid) == (USER, USER)
    assert (home / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("target", ["/etc/shadow", "../../etc/shadow", "../" * 20 + "etc/shadow"])
def test_a_link_out_of_the_workspace_ends_in_the_sessions_root(
    ask: Ask, home: Path, target: str
) -> None:
    (home / "link").symlink_to(target)
    assert ask("read", "link", 0, 100) == "refused"  # it is root's, there too
    assert ask("copy", "link", "mine") == "refused"
    (home / "name").symlink_to(target.replace("shadow", "hostname"))
    assert ask("read", "name", 0, 100) == b"session"


def test_links_to_the_nodes_own_files_lead_nowhere(ask: Ask, home: Path, tmp_path: Path) -> None:
    (home / "file").symlink_to(tmp_path / "secret")
    (home / "directory").symlink_to(tmp_path)
    (home / "process").symlink_to("/proc/self/root")
    assert ask("read", "file", 0, 100) == "not_found"
    assert ask("list", "directory") == "not_found"
    assert ask("read", "directory/secret", 0, 100) == "not_found"
    assert ask("stat", "file")["type"] == "symlink-broken"
    assert ask("list", "process") == "not_found"
    assert ask("write", "directory/new", write(b"x")) == "not_found"


def test_changes_go_to_links_not_through_them(ask: Ask, root: Path, home: Path) -> None:
    (root / "etc" / "open").write_text("untouched")
    os.chown(root / "etc" / "open", USER, USER)
    for name in ("w", "d", "r"):
        (home / name).symlink_to("/etc/open")
    assert ask("write", "w", write(b"mine"))["size"] == 4
    assert ask("write", "r", write(b"x"), append=True) == "refused"
    assert ask("rename", "r", "renamed")["name"] == "renamed"
    assert ask("delete", "d") is None
    assert (home / "renamed").is_symlink()
    assert (home / "w").read_bytes() == b"mine"
    assert (root / "etc" / "open").read_text() == "untouched"


def test_deleting_a_tree_does_not_follow_its_links(ask: Ask, root: Path, home: Path) -> None:
    precious = root / "data"
    precious.mkdir(mode=0o777)
    (precious / "x").write_text("kept")
    os.chown(precious, USER, USER)
    (home / "tree").mkdir()
    (home / "tree" / "link").symlink_to("/data")
    os.chown(home / "tree", USER, USER)
    assert ask("delete", "tree", recursive=True) is None
    assert (precious / "x").read_text() == "kept"


def test_what_is_roots_is_not_the_users(ask: Ask, root: Path, home: Path) -> None:
    (home / "private").write_text("root's")
    (home / "private").chmod(0o600)
    (home / "closed").mkdir(mode=0o700)
    assert ask("read", "private", 0, 10) == "refused"
    assert ask("list", "closed") == "refused"
    assert ask("write", "closed/x", write(b"")) == "refused"
    assert ask("stat", "private")["writable"] is False
    (home / "up").symlink_to("..")
    assert ask("write", "up/x", write(b"")) == "refused"
    assert ask("mkdir", "up/x") == "refused"
    assert ask("rename", "private", "up/x") == "refused"


IN_ROOTS_GROUP = """
import os, sys
from pathlib import Path
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.agent.workspace import LiveWorkspace
os.setgroups([0])
workspace = LiveWorkspace(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
with workspace.executor(1) as threads:
    error = threads.submit(workspace.read, "group", 0, 10).exception()
print(getattr(error, "code", error), os.getgroups())
"""


def test_files_of_roots_group_are_not_the_users(root: Path, home: Path) -> None:
    """The agent is in root's group; its threads for the UI are not, and it stays there."""
    (home / "group").write_text("for root's group")
    (home / "group").chmod(0o440)
    arguments = [sys.executable, "-c", IN_ROOTS_GROUP, str(root), HOME, str(USER)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused [0]"


def test_other_threads_stay_what_they_were(ask: Ask, home: Path) -> None:
    (home / "private").write_text("root's")
    (home / "private").chmod(0o600)
    groups = os.getgroups()
    assert ask("read", "private", 0, 10) == "refused"
    assert (home / "private").read_text() == "root's"
    assert os.getgroups() == groups


def test_a_pipe_or_device_does_not_hang_the_ui(ask: Ask, home: Path) -> None:
    os.mkfifo(home / "pipe")
    os.chown(home / "pipe", USER, USER)
    assert ask("stat", "pipe")["type"] == "other"
    assert ask("read", "pipe", 0, 10) in {b"", "refused"}


def test_a_write_that_fails_leaves_what_was_there(ask: Ask, home: Path) -> None:
    assert ask("write", "x", write(b"before"))

    def fails(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    assert ask("write", "x", fails) == "full"
    assert (home / "x").read_bytes() == b"before"
    assert [p.name for p in home.iterdir()] == ["x"]


def test_a_file_keeps_its_mode_when_it_is_saved_again(ask: Ask, home: Path) -> None:
    ask("write", "run.sh", write(b"#!/bin/sh"))
    (home / "run.sh").chmod(0o755)
    ask("write", "run.sh", write(b"#!/bin/sh\n"))
    assert (home / "run.sh").stat().st_mode & 0o777 == 0o755
