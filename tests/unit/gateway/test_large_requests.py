"""A request whose writing takes long: what the others do meanwhile, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from test_requests_end import reopen, submit
from test_shown_once import Scene

from gateway.frames import SHELL, payload_head
from gateway.journal import LARGE
from gateway.records import RecordLog

SIZE = LARGE + 1_000_000


def request(msg_id: str) -> tuple[bytes, memoryview]:
    header = Scene.header(msg_id, "comm_msg").replace(b"}", b', "version": "5.3"}')
    parts = [header, b"{}", b"{}", b"{}", msg_id.encode() * SIZE]
    return payload_head(SHELL, [len(part) for part in parts]), memoryview(b"".join(parts))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that writes nothing large before it is told to."""
    writes, prepare = threading.Event(), RecordLog.prepare

    def slowly(self: RecordLog, ahead: int, *tail: bytes | memoryview) -> Path:
        assert writes.wait(20)
        return prepare(self, ahead, *tail)

    monkeypatch.setattr(RecordLog, "prepare", slowly)
    return writes


async def test_others_go_on_while_it_is_written_and_it_arrives_as_it_was(
    tmp_path: Path, disk: threading.Event
) -> None:
    scene = Scene(tmp_path)
    head, rest = request("a")
    taking = asyncio.create_task(scene.channel.large_requests.take(head, rest))
    await asyncio.sleep(0)
    submit(scene.channel, "b")
    scene.settle()
    assert scene.asked == ["b"]
    disk.set()
    await taking
    scene.settle()
    assert scene.asked == ["b", "a"]
    whole = head + bytes(rest)
    assert bytes(scene.channel.journal.inputs.get(2, b"before")) == b"before" + whole
    reopen(scene)
    assert bytes(scene.channel.journal.inputs.get(2)) == whole


async def test_one_that_is_sent_twice_is_applied_once_and_leaves_no_file(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    take = scene.channel.large_requests.take
    await asyncio.gather(take(*request("a")), take(*request("a")))
    scene.settle()
    assert scene.asked == ["a"]
    assert [path.name for path in tmp_path.glob("inputs*")] == ["inputs-00000000000000000001.log"]


async def test_gateway_killed_while_it_is_written_knows_nothing_of_it(
    tmp_path: Path, disk: threading.Event
) -> None:
    scene = Scene(tmp_path)
    disk.set()
    scene.channel.journal.inputs.prepare(1, *request("a"))
    reopen(scene)
    assert scene.channel.journal.inputs.last == 0
    assert list(tmp_path.glob("*.large")) == []
