"""What of a session's files is not in its checkpoints is told, by name."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.files import SOCKET, Skipped, Tree, TreeView
from checkpoint.files.listing import Listing
from checkpoint.files.scanned import MOST_NAMED, Named
from checkpoint.keys import SessionKeys
from checkpoint.manifest import decode_body
from checkpoint.reader import Reader
from sessionkeeper.agent import unsaved
from sessionkeeper.agent.hosted import HostedSession
from sessionkeeper.agent.kernelspecs import Kernelspecs
from sessionkeeper.agent.process import ProcessPlace
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.tenancy import Tenancy
from sessionkeeper.cpu import this_node

HOME = "/home/me"


def _tree(**told: list[object]) -> Tree:
    return Tree(Listing(), **{key: Named(items) for key, items in told.items()})  # type: ignore[arg-type]


def test_nothing_is_told_where_everything_is_saved() -> None:
    tree = _tree(skipped=[Skipped(b"run/x", SOCKET)])
    assert unsaved.told(tree, HOME) is None
    assert unsaved.ignored(tree, HOME) is None


def test_files_are_named_as_the_user_knows_them() -> None:
    tree = _tree(
        skipped=[Skipped(b"home/me/a/x", "Permission denied"), Skipped(b"etc/\xff", "no")],
        torn=[b"home/me/log"],
    )
    assert unsaved.told(tree, HOME) == (
        "not in the checkpoints: a/x (Permission denied), /etc/\\xff (no);"
        " changed while they were saved: log"
    )


def test_of_many_some_are_named_and_the_rest_is_counted() -> None:
    tree = _tree(ignored=[b"home/me/%d.tmp" % number for number in range(9)])
    told = unsaved.ignored(tree, HOME)
    assert told is not None
    assert "0.tmp, 1.tmp, 2.tmp, 3.tmp, 4.tmp and 4 more;" in told


def test_what_is_only_counted_is_counted_too() -> None:
    tree = _tree(ignored=[b"home/me/%d.tmp" % number for number in range(MOST_NAMED + 3)])
    told = unsaved.ignored(tree, HOME)
    assert told is not None
    assert f"and {MOST_NAMED + 3 - unsaved.NAMED} more;" in told


@pytest.fixture
def store() -> Memory:
    return Memory()


async def test_ignored_files_are_not_in_a_sessions_checkpoint_and_that_is_told(
    tmp_path: Path, store: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = SessionKeys.generate()
    place = ProcessPlace(Path("no shim is started"), "one", tmp_path / "place")
    hosted = HostedSession("one", 1, place, lambda kernel, frame: None, warm=False)
    savepoints = Savepoints(store, keys, tmp_path / "images")
    savepoints.settle(place, store)
    tenancy = Tenancy(hosted, savepoints, store, Kernelspecs(), this_node())
    try:
        await tenancy.open(None, [], True, [], None)
        home = Path(place.seen(place.home))
        (home / ".sessionkeeperignore").write_text("cache/\n")
        (home / "cache").mkdir()
        (home / "cache" / "big").write_bytes(b"x")
        (home / "notes").write_bytes(b"kept")
        with socket.socket(socket.AF_UNIX) as listener:
            monkeypatch.chdir(home)
            listener.bind("socket")
            taken = await tenancy.checkpoint(final=False)
        assert taken["unsaved"] is None
        assert (
            "left out of the checkpoints, as .sessionkeeperignore says: cache;"
            in (taken["ignored"])
        )
        body = decode_body(base64.b64decode(taken["body"]))
        assert body.tree is not None
        with Reader(store, keys, body.packs) as reader:
            names = TreeView(reader, body.tree).list(place.home)
        assert sorted(names) == [b".sessionkeeperignore", b"notes"]
    finally:
        await tenancy.close()
