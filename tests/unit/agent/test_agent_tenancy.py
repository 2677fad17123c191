"""Recorded writes on a node: done once, in order, and never noted as done when they were not."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest, decode_body
from sessionkeeper.agent.cuts import Cuts
from sessionkeeper.agent.errors import FileRefused, KernelBusy
from sessionkeeper.agent.hosted import HostedSession
from sessionkeeper.agent.kernelspecs import Kernelspecs
from sessionkeeper.agent.place import Slot
from sessionkeeper.agent.process import ProcessPlace
from sessionkeeper.agent.room import WORTH_IT
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.tenancy import Tenancy
from sessionkeeper.cpu import this_node


class Writes(Memory):
    """A session's store, which does not answer as long as it is ``down``."""

    down = False

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if self.down:
            raise StoreUnavailable("no answer")
        return super().get(key, start, length)

    def record(self, number: int, operation: str, path: str, **more: Any) -> dict[str, Any]:
        data = more.pop("data", None)
        if data is not None:
            self.put(f"writes/{number}", data)
            more["size"] = len(data)
        facts = {"to": None, "recursive": False, "size": None, "at": 0.0, **more}
        return {"number": number, "operation": operation, "path": path, **facts}


class Stay:
    """A session on a node without containers, and without kernels."""

    def __init__(self, base: Path) -> None:
        self.store = Writes()
        self.images = base / "images"
        place = ProcessPlace(Path("no shim is started"), "one", base / "place")
        self.hosted = HostedSession("one", 1, place, lambda kernel, frame: None, warm=False)
        savepoints = Savepoints(self.store, SessionKeys.generate(), self.images)
        savepoints.settle(place, self.store)
        self.tenancy = Tenancy(self.hosted, savepoints, self.store, Kernelspecs(), this_node())

    async def open(self, *writes: dict[str, Any]) -> dict[str, Any]:
        return await self.tenancy.open(None, [], True, list(writes), None)

    async def content(self, path: str) -> bytes:
        content: bytes = await self.tenancy.in_workspace("read", path, 0, 1000)
        return content

    async def checkpoint(self) -> Body:
        taken = await self.tenancy.checkpoint(final=False)
        return decode_body(base64.b64decode(taken["body"]))


@pytest.fixture
async def stay(tmp_path: Path) -> AsyncIterator[Stay]:
    made = Stay(tmp_path)
    yield made
    await made.tenancy.close()


async def test_what_was_written_before_is_done_when_the_session_opens(stay: Stay) -> None:
    opened = await stay.open(
        stay.store.record(1, "mkdir", "d"),
        stay.store.record(2, "write", "d/x", data=b"one"),
        stay.store.record(5, "append", "d/x", data=b"two"),
    )
    assert opened["refused"] == []
    assert await stay.content("d/x") == b"onetwo"
    assert stay.hosted.writes == 5


async def test_a_write_that_cannot_be_repeated_is_named_and_the_session_opens(stay: Stay) -> None:
    opened = await stay.open(
        stay.store.record(1, "rename", "made by a kernel", to="x"),
        stay.store.record(2, "write", "y", data=b"kept"),
    )
    [refused] = opened["refused"]
    assert refused.startswith("rename made by a kernel was not done again")
    assert await stay.content("y") == b"kept"
    assert stay.hosted.writes == 2


async def test_a_write_is_done_once_however_often_it_is_asked_for(stay: Stay) -> None:
    await stay.open()
    write = stay.store.record(1, "append", "x", data=b"once")
    first = await stay.tenancy.apply(write)
    assert await stay.tenancy.apply(write) == first
    assert await stay.content("x") == b"once"


async def test_a_write_whose_bytes_could_not_be_fetched_is_not_noted_as_done(stay: Stay) -> None:
    await stay.open()
    write = stay.store.record(1, "write", "x", data=b"kept")
    stay.store.down = True
    with pytest.raises(StoreUnavailable):
        await stay.tenancy.apply(write)
    assert stay.hosted.writes == 0
    stay.store.down = False
    await stay.tenancy.apply(write)
    assert await stay.content("x") == b"kept"
    assert stay.hosted.writes == 1


async def test_a_refused_write_is_dealt_with(stay: Stay) -> None:
    await stay.open()
    with pytest.raises(FileRefused):
        await stay.tenancy.apply(stay.store.record(1, "delete", "nothing"))
    assert stay.hosted.writes == 1


async def test_a_store_that_is_down_is_no_refusal_when_the_session_opens(stay: Stay) -> None:
    write = stay.store.record(1, "write", "x", data=b"kept")
    stay.store.down = True
    with pytest.raises(StoreUnavailable):
        await stay.open(write)


async def test_a_store_that_was_down_when_the_session_came_back_does_not_end_its_checkpoints(
    stay: Stay,
) -> None:
    await stay.open(stay.store.record(1, "write", "x", data=b"kept"))
    first = await stay.checkpoint()
    stay.store.down = True
    stay.tenancy.savepoints.go_on_from(Manifest(1, 1, None, 0.0, first), None)
    with pytest.raises(StoreUnavailable):
        await stay.checkpoint()
    stay.store.down = False
    assert (await stay.checkpoint()).packs == first.packs


async def test_memory_that_was_had_for_a_dump_is_given_back_when_there_is_none(
    stay: Stay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stay.open()
    one = SimpleNamespace(kernel_id="one", slot=Slot("one-1", 1))
    monkeypatch.setattr(Cuts, "running", lambda self: [one])
    monkeypatch.setattr(stay.tenancy.hosted.place, "dump_size", lambda slots: 2 * WORTH_IT)
    held: list[int] = []

    async def no_cut(*_: object) -> None:
        held.extend(file.stat().st_size for file in stay.images.glob("room-*"))
        raise KernelBusy("a cell runs")

    monkeypatch.setattr(Cuts, "variables", no_cut)
    with pytest.raises(KernelBusy):
        await stay.checkpoint()
    assert sum(held) >= 2 * WORTH_IT
    assert list(stay.images.glob("room-*")) == []
