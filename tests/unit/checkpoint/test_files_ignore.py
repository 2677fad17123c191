"""`.sessionkeeperignore`: what it names stays out of a checkpoint, as git would have it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.files import Skipped, Tree, TreeView, materialize, scan
from checkpoint.files.listing import DIRECTORY, END
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
NAME = ".sessionkeeperignore"


@pytest.fixture
def writer() -> Iterator[Writer]:
    with Writer(Memory(), KEYS) as writer:
        yield writer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


def _write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))


def _files(tree: Tree) -> set[str]:
    found, path = set(), list[bytes]()
    for record in tree.listing.records():
        if record.what == DIRECTORY:
            path.append(record.name)
        elif record.what == END:
            path.pop()
        else:
            found.add(os.fsdecode(b"/".join([*path[1:], record.name])))
    return found


NAMES = (
    "a.txt",
    "a.pyc",
    "b/a.pyc",
    "b/keep.pyc",
    "build/x",
    "src/build/x",
    "src/build.txt",
    "data/raw/1.csv",
    "data/raw/2.csv",
    "data/keep.csv",
    "deep/er/still/x.log",
    "deep/er/x.log",
    "deep/y/x.log",
    "#hash",
    "!bang",
    "space ",
    "a[1]",
    "\udcff.tmp",
    "ü/x",
)


@pytest.mark.needs("git")
@pytest.mark.parametrize(
    "files",
    [
        {"": "*.pyc\n"},
        {"": "*.pyc\n!keep.pyc\n"},
        {"": "build/\n"},
        {"": "/build\n# a comment\n\n"},
        {"": "data/raw/*\n!data/raw/1.csv\n"},
        {"": "data/raw\n!data/raw/1.csv\n"},  # what is in a directory left out does not come back
        {"": "deep/**/x.log\n"},
        {"": "**/er/\n"},
        {"": "*\n!*/\n!*.csv\n"},
        {"": "\\#hash\n\\!bang\nspace\\ \na\\[1\\]\n"},
        {"": "a.tx?\n[ab].pyc\n"},
        {"": "*.tmp\nü/\n"},
        {"": "*.log", "deep/": "!x.log\n", "deep/er/": "/x.log\n"},
        {"data/": "*.csv\n"},
        {"": "b/\n", "b/": "!a.pyc\n"},
        {"": "\ufeff*.pyc\n"},
        {"": "*.pyc\r\n*.log  \r\n"},
        {"": "a*\n!a.*\n/*/\n!/b\n"},
        {"": "*\n"},
        {"": "data/**\n!data/keep.csv\n"},
        {"": "**/raw/**\n"},
        {"": "/**\n!/**/\n!*.txt\n"},
        {"": "**/\n!src/\n"},
        {"": "d*/\n!/deep\n"},
    ],
)
def test_rules_are_those_of_git(root: Path, writer: Writer, files: dict[str, str]) -> None:
    _write(root, *NAMES)
    for place, text in files.items():
        (root / place / NAME).write_text(text, newline="")
    subprocess.run(["git", "init", "-q", root], check=True)
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "--others", "-z", f"--exclude-per-directory={NAME}"],
        check=True,
        capture_output=True,
    ).stdout
    not_ignored = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    tree = scan(root, None, writer, exclude={b".git"})
    ours = {f"{place}{NAME}" for place in files}  # is saved, whatever it says itself
    assert _files(tree) - ours == not_ignored - ours
    assert tree.skipped == []


def test_ignored_files_stay_where_they_are_and_are_named(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    _write(root, "cache/a", "cache/b", "kept", "x.tmp")
    (root / NAME).write_text("cache/\n*.tmp\n.sessionkeeperignore\n")
    tree = scan(root, None, writer)
    assert tree.ignored == [b"cache", b"x.tmp"]
    root_id = tree.store(writer)
    with Reader(writer._store, KEYS, writer.finish()) as reader:
        materialize(reader, root_id, tmp_path / "restored")
    assert sorted(os.listdir(tmp_path / "restored")) == [NAME, "kept"]
    assert (root / "cache" / "a").read_text() == "cache/a"


def test_rule_that_comes_or_goes_counts_at_the_next_checkpoint(root: Path, writer: Writer) -> None:
    _write(root, "data/big", "kept")
    first = scan(root, None, writer)
    (root / NAME).write_text("data\n")
    second = scan(root, first, writer)
    assert _files(second) == {"kept", NAME}
    (root / NAME).unlink()
    third = scan(root, second, writer, copy=True)
    assert _files(third) == {"data/big", "kept"}
    root_id = third.store(writer)
    with Reader(writer._store, KEYS, writer.finish()) as reader:
        assert TreeView(reader, root_id).read("data/big") == b"data/big"


def test_file_that_a_process_has_open_is_saved_though_ignored(root: Path, writer: Writer) -> None:
    _write(root, "venv/lib/module.so", "venv/lib/other", "venv/bin/x", "log.tmp")
    (root / NAME).write_text("venv/\n*.tmp\n")
    tree = scan(root, None, writer, in_use={b"venv/lib/module.so", b"log.tmp"})
    assert _files(tree) == {NAME, "venv/lib/module.so", "log.tmp"}
    assert tree.ignored == [b"venv/bin", b"venv/lib/other"]


def test_rules_count_below_their_directory_alone(root: Path, writer: Writer) -> None:
    _write(root, "home/me/x.tmp", "usr/x.tmp", "home/you/x.tmp")
    (root / "home/me" / NAME).write_text("*.tmp\n/usr\n")
    assert scan(root, None, writer).ignored == [b"home/me/x.tmp"]


def test_line_that_is_no_pattern_is_told_and_the_others_count(root: Path, writer: Writer) -> None:
    _write(root, "x.tmp", "y")
    (root / NAME).write_text("[z-a]\n*.tmp\n[\n*a*a*a*b\n")
    tree = scan(root, None, writer)
    assert _files(tree) == {NAME, "y"}
    assert [reason for _, reason in tree.skipped] == [
        "line 1 is not a pattern",
        "line 3 is not a pattern",
        "line 4 has * more than 3 times",
    ]


def test_ignore_file_that_is_none_leaves_nothing_out_and_is_told(
    root: Path, tmp_path: Path, writer: Writer
) -> None:
    _write(root, "a", "b/a", "c/a", "d/a")
    (tmp_path / "elsewhere").write_text("a\n")
    (root / NAME).symlink_to(tmp_path / "elsewhere")
    (root / "b" / NAME).mkdir()
    (root / "c" / NAME).write_text("a\n" * 40_000)
    os.mkfifo(root / "d" / NAME)
    tree = scan(root, None, writer)
    assert {"a", "b/a", "c/a", "d/a"} < _files(tree)
    name = NAME.encode()
    assert tree.skipped == [
        Skipped(name, "nothing is ignored: Too many levels of symbolic links"),
        Skipped(b"b/" + name, "nothing is ignored: it is not a file"),
        Skipped(b"c/" + name, "nothing is ignored: it is longer than 64 KiB"),
        Skipped(b"d/" + name, "nothing is ignored: it is not a file"),
    ]


def test_name_with_a_newline_is_not_taken_for_another(root: Path, writer: Writer) -> None:
    _write(root, "x.tmp", "x.tmp\n")
    (root / NAME).write_text("*.tmp\n")
    assert _files(scan(root, None, writer)) == {NAME, "x.tmp\n"}
