"""The UI's file operations while the session is on a node, on its way, or nowhere."""

from __future__ import annotations

import asyncio
import base64
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from keeper_rig import SESSION, Answer, ScriptedAgent, Site, fails, remote

from gateway.errors import AgentGone
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.errors import DiskFull, Unavailable
from sessionkeeper.file_version import FileVersion
from sessionkeeper.keeper import workspace as module
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.workspace import Workspace
from sessionkeeper.keeper.writes import Write


class Somewhere:
    """Where the session is, as the test says: on ``node``, or with no compute."""

    session = SESSION

    def __init__(self) -> None:
        self.node: Node | None = None
        self.hidden = asyncio.Event()
        self.hidden.set()

    async def settled(self) -> Node | None:
        await self.hidden.wait()
        return self.node

    async def stored_base(self) -> tuple[object, None, int]:
        return None, None, 0


class Desk:
    """A workspace, its journal and one agent."""

    def __init__(self, base: Path) -> None:
        self.site = Site(base)
        self.journal = self.site.journal
        self.where = Somewhere()
        self.workspace = Workspace(self.where, self.journal)
        self.agent = ScriptedAgent(self.site, "a")
        self.node = Node("a", self.agent, {"node": "a"}, 60.0)

    def incoming(self, content: bytes) -> Path:
        path = self.journal.incoming()
        path.write_bytes(content)
        return path

    async def content(self, path: str, version: FileVersion | None = None) -> bytes:
        version = version or await self.workspace.version(path)
        read = self.workspace.read(path, 0, version.size, version)
        return b"".join([piece async for piece in read])

    @property
    def recorded(self) -> list[Write]:
        return self.journal.after(0)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.journal.close()


async def test_without_compute_files_are_written_and_read(desk: Desk) -> None:
    made = await desk.workspace.change("mkdir", "plots")
    assert (made["name"], made["type"]) == ("plots", "directory")
    await desk.workspace.change("write", "plots/a", data=desk.incoming(b"one"))
    stat = await desk.workspace.change("append", "plots/a", data=desk.incoming(b"two"))
    assert stat["size"] == 6
    assert await desk.content("plots/a") == b"onetwo"
    assert (await desk.workspace.change("rename", "plots/a", to="b"))["name"] == "b"
    assert [e["name"] for e in await desk.workspace.list("")] == ["b", "plots"]
    assert await desk.workspace.change("delete", "plots") == {}
    assert len(desk.recorded) == 5


async def test_what_is_refused_is_not_recorded(desk: Desk) -> None:
    await desk.workspace.change("mkdir", "x")
    with pytest.raises(FileRefused) as refused:
        await desk.workspace.change("mkdir", "x")
    assert refused.value.code == "exists"
    desk.where.node = desk.node
    desk.agent.next["files.apply"] = [fails(remote("not_empty", "x: not empty", retryable=False))]
    with pytest.raises(FileRefused, match="not empty"):
        await desk.workspace.change("delete", "x")
    assert [w.path for w in desk.recorded] == ["x"]
    assert len(desk.recorded) == 1


async def test_on_a_node_a_write_is_recorded_before_the_node_is_told(desk: Desk) -> None:
    desk.where.node = desk.node

    async def looks(params: dict[str, Any]) -> Any:
        assert [vars(w) for w in desk.recorded] == [params["write"]]
        return {"name": "x"}

    desk.agent.next["files.apply"] = [looks]
    assert await desk.workspace.change("mkdir", "x") == {"name": "x"}


@pytest.mark.parametrize("error", [AgentGone("gone"), remote("store_unavailable", "no store")])
async def test_a_write_the_node_may_not_have_is_repeated_before_the_next_one(
    desk: Desk, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER", 0.001)
    desk.where.node = desk.node
    desk.agent.next["files.apply"] = [fails(error), fails(error)]
    await asyncio.gather(
        desk.workspace.change("mkdir", "one"), desk.workspace.change("mkdir", "two")
    )
    asked = [c["write"]["number"] for c in desk.agent.asked("files.apply")]
    assert asked == [1, 1, 1, 2]
    assert desk.agent.applied == [1, 2]


async def test_a_write_to_a_node_that_goes_is_kept_for_the_next_one(desk: Desk) -> None:
    desk.where.node = desk.node
    desk.agent.next["files.apply"] = [fails(remote("not_hosted"))]
    assert (await desk.workspace.change("mkdir", "one"))["pending"]
    desk.node.gone.set_result(None)
    assert (await desk.workspace.change("mkdir", "two"))["pending"]
    assert [w.path for w in desk.recorded] == ["one", "two"]


async def test_a_recorded_write_that_cannot_be_done_any_more_spoils_no_view(desk: Desk) -> None:
    desk.journal.record("rename", "made by a kernel after the checkpoint", to="x")
    desk.journal.record("mkdir", "y")
    assert [e["name"] for e in await desk.workspace.list("")] == ["y"]


async def test_operations_wait_for_a_session_on_its_way_but_not_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.where.hidden.clear()
    listing = asyncio.create_task(desk.workspace.list(""))
    await asyncio.sleep(0)
    assert not listing.done()
    desk.where.hidden.set()
    assert await listing == []
    desk.where.hidden.clear()
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    with pytest.raises(Unavailable, match="on its way") as error:
        await desk.workspace.list("")
    assert error.value.retryable


async def test_reading_goes_on_where_the_session_went(desk: Desk) -> None:
    await desk.workspace.change("write", "x", data=desk.incoming(b"kept"))
    version = await desk.workspace.version("x")
    desk.where.node = desk.node

    async def leaves(params: dict[str, Any]) -> Any:
        desk.where.node = None
        raise remote("not_hosted")

    desk.agent.next["files.read"] = [leaves]
    assert await desk.content("x", version) == b"kept"


async def test_reading_from_a_node_that_stays_lost_ends_with_words(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    desk.where.node = desk.node
    desk.node.gone.set_result(None)
    with pytest.raises(Unavailable, match="a is lost"):
        await desk.workspace.stat("x")


async def test_a_full_disk_is_told_and_what_was_there_is_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.workspace.change("mkdir", "x")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskFull, match="No space left"):
            await desk.workspace.change("mkdir", "y")
    assert [e["name"] for e in await desk.workspace.list("")] == ["x"]
    await desk.workspace.change("mkdir", "y")
    assert [e["name"] for e in await desk.workspace.list("")] == ["x", "y"]


def gives(found: Any) -> Answer:
    async def answer(params: dict[str, Any]) -> Any:
        return found

    return answer


def stat_of(size: int, mtime: float, inode: int = 7) -> dict[str, Any]:
    return {"name": "x", "type": "file", "size": size, "mtime": mtime, "inode": inode}


@pytest.mark.parametrize(
    ("now", "whole"),
    [
        pytest.param(stat_of(5, 1.0), True, id="as-it-was"),
        pytest.param(stat_of(5, 1.0, 8), True, id="moved-to-another-node"),
        pytest.param(stat_of(9, 2.0), True, id="a-log-that-grew"),
        pytest.param(stat_of(9, 2.0, 8), False, id="replaced-by-a-longer-one"),
        pytest.param(stat_of(5, 2.0), False, id="written-over"),
        pytest.param(stat_of(3, 2.0), False, id="cut"),
    ],
)
async def test_what_is_read_is_all_of_one_version(
    desk: Desk, now: dict[str, Any], whole: bool
) -> None:
    desk.where.node = desk.node
    desk.agent.next["files.stat"] = [gives(stat_of(5, 1.0)), gives(now)]
    desk.agent.next["files.read"] = [gives(base64.b64encode(b)) for b in (b"hel", b"lo")]
    reading = desk.workspace.read("x", 0, 5, await desk.workspace.version("x"))
    assert await anext(reading) == b"hel"
    if whole:
        assert await anext(reading) == b"lo"
    else:
        with pytest.raises(FileRefused, match="changed"):
            await anext(reading)
