"""The gateway's machine is lost: what the next one finds of its kernels' journals in the store."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.blobs import LocalDirectory
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body, Manifest, Part
from checkpoint.repository import Repository
from gateway.channel import KernelChannel
from gateway.frames import IOPUB, SHELL, encode_payload
from gateway.kernels import KernelRecord, Kernels
from gateway.shim_link import ShimLink
from sessionkeeper.keeper.compute import KernelChannels
from sessionkeeper.keeper.journals import PIECE, Journals

SESSION = "one"


class Machine:
    """A gateway's machine: its disk, and its view of the store."""

    def __init__(self, base: Path, store: Path) -> None:
        self.base = base
        self.repository = Repository.open(LocalDirectory(store), SESSION, MasterKey(bytes(32)))
        self.kernels = Kernels(base / "kernels")
        self.channels = KernelChannels(self.kernels)
        self.journals = Journals(self.repository, base / "arriving")
        self.newest: Manifest | None = None

    async def checkpoint(self) -> Manifest:
        """As the keeper takes one, the node's part left out."""
        records = self.channels.records()
        processes = {
            one: Part("criu", None, {"name": "python3", "generation": 0}) for one in records
        }
        body = Body(processes=processes, meta={"kernels": records})
        await self.journals.ahead(self.channels.snapshots(), self.newest)
        body = await self.journals.save(self.channels.snapshots(), self.newest, body)
        number = self.newest.number + 1 if self.newest else 1
        self.newest = Manifest(number, 1, None, time.time(), body)
        self.repository.commit(self.newest)
        return self.newest

    async def adopt(self, manifest: Manifest, *, over: bool = False) -> list[str]:
        """Go on with the kernels of another machine; those whose journals are damaged."""
        records: dict[str, Any] = manifest.meta["kernels"]
        found, damaged = await self.journals.bring(manifest, self.channels.lacking(records))
        self.channels.go_back(records, "gone back", other=True, journals=found, over=over)
        self.newest = manifest
        return damaged

    def close(self) -> None:
        self.kernels.close()
        self.journals.forget()


@pytest.fixture
async def machine(tmp_path: Path) -> Any:
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(tmp_path / name, tmp_path / "store"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def message(kind: str, parent: str, text: str = "") -> list[bytes]:
    header = {"msg_id": f"{kind}-{parent}-{text}", "msg_type": kind, "session": "s"}
    content = {"execution_state": text} if kind == "status" else {"name": "stdout", "text": text}
    parts = (header, {"msg_id": parent, "session": "s"}, {}, content)
    return [json.dumps(part).encode() for part in parts]


class Node:
    """A shim whose kernel is the test. `asked`: msg_ids that reached the kernel."""

    def __init__(self, channel: KernelChannel, shim: ShimLink | None = None, epoch: int = 1):
        self.channel, self.shim, self.epoch = channel, shim or ShimLink(), epoch
        self.asked: list[str] = []
        self.shim.connected(epoch)
        channel.attach_node(self.take, epoch)
        self.settle()

    def take(self, frame: bytes) -> None:
        payload = self.shim.receive(frame, self.epoch)
        if payload:
            self.asked.append(str(payload, "latin-1").split('"msg_id": "')[1].split('"')[0])

    def settle(self) -> None:
        while (frame := self.shim.next_frame(self.epoch)) is not None:
            self.channel.receive(frame, self.epoch)
        self.channel._acknowledge()

    def prints(self, parent: str, text: str) -> None:
        self.shim.produce(self.epoch, IOPUB, message("stream", parent, text))
        self.settle()

    def ends(self, parent: str) -> None:
        self.shim.produce(self.epoch, SHELL, message("execute_reply", parent))
        self.shim.produce(self.epoch, IOPUB, message("status", parent, "idle"))
        self.settle()


def ask(channel: KernelChannel, msg_id: str) -> None:
    header = {"msg_id": msg_id, "msg_type": "execute_request", "session": "s"}
    channel.submit(encode_payload(SHELL, [json.dumps(header).encode(), b"{}", b"{}", b"{}"]))


def texts(channel: KernelChannel) -> list[str]:
    """What clients are shown, from the beginning."""
    shown = [bytes(r.payload) for r in channel.outlet.records(1) if not r.hidden]
    found = []
    for payload in shown:
        if b'"stream"' in payload:
            found.append(payload.rpartition(b'"text": "')[2].partition(b'"')[0].decode())
        elif b'"clear_output"' in payload:
            found.append("clear")
    return found


async def test_new_gateway_on_an_empty_disk_has_outputs_requests_and_notebook_sessions(
    machine: Callable[[str], Machine],
) -> None:
    one = machine("one")
    record = one.kernels.create("python3", notebook="a/work.ipynb")
    session = one.kernels.notebooks.create("a/work.ipynb", "work.ipynb", "notebook", record.id)
    one.kernels.notebooks.create("console-1", "", "console", record.id)
    node = Node(one.kernels.channel(record.id))
    ask(node.channel, "a")
    node.prints("a", "said")
    node.ends("a")
    ask(node.channel, "b")
    manifest = await one.checkpoint()

    two = machine("two")
    assert await two.adopt(manifest) == []
    channel = two.kernels.channel(record.id)
    assert texts(channel) == ["said"]
    assert two.kernels.notebooks.get(session.id) == session
    assert {s.path for s in two.kernels.notebooks.all()} == {"a/work.ipynb", "console-1"}
    assert [one.msg_id for one in channel.ends.requests.unfinished()] == ["b"]
    ask(channel, "a")  # by a client that does not know whether it arrived
    restored = Node(channel, node.shim, epoch=2)
    assert restored.asked == []  # what the checkpoint contains is not asked again
    restored.ends("b")
    assert channel.ends.requests.unfinished() == []


async def test_what_a_client_had_after_the_checkpoint_is_shown_once(
    machine: Callable[[str], Machine],
) -> None:
    one = machine("one")
    record = one.kernels.create("python3")
    node = Node(one.kernels.channel(record.id))
    ask(node.channel, "a")
    node.prints("a", "1")
    shim = copy.deepcopy(node.shim)
    manifest = await one.checkpoint()
    shared, name = node.channel.outlet.last_cursor, node.channel.journal.name
    node.prints("a", "2")

    two = machine("two")
    await two.adopt(manifest)
    channel = two.kernels.channel(record.id)
    # The client had 1 and 2; it goes on behind 1, where both journals agree.
    assert channel.journal.shared(name, shared + 1) == shared
    assert channel.journal.shared("another", shared) is None
    restored = Node(channel, shim, epoch=2)
    restored.prints("a", "2")
    restored.ends("a")
    assert texts(channel) == ["1", "clear", "1", "2"]
    two.kernels.close()
    again = Kernels(two.base / "kernels")
    assert not again.channel(record.id).branched  # that is done once
    assert again.channel(record.id).journal.shared(name, shared + 5) == shared
    again.close()


async def test_request_after_the_checkpoint_of_a_life_that_is_over_is_answered_not_asked(
    machine: Callable[[str], Machine],
) -> None:
    one = machine("one")
    record = one.kernels.create("python3")
    node = Node(one.kernels.channel(record.id))
    ask(node.channel, "a")
    manifest = await one.checkpoint()
    two = machine("two")
    await two.adopt(manifest, over=True)
    channel = two.kernels.channel(record.id)
    assert channel.ends.requests.unfinished() == []
    assert any(b"execute_reply" in bytes(r.payload) for r in channel.outlet.records(1))
    assert Node(channel, epoch=2).asked == []


async def test_checkpoint_adds_what_is_new_and_little_more(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    record = one.kernels.create("python3")
    node = Node(one.kernels.channel(record.id))
    noise = random.Random(1)
    for _ in range(40):
        node.prints("a", noise.randbytes(50_000).hex())
    await one.checkpoint()

    def stored() -> int:
        return sum(f.stat().st_size for f in (tmp_path / "store").rglob("*") if f.is_file())

    first = stored()
    assert first > 2_000_000
    for _ in range(3):
        before = stored()
        node.prints("a", "little")
        await one.checkpoint()
        assert stored() - before < PIECE
    before = stored()
    await one.checkpoint()
    assert stored() - before < 4_000  # nothing was said: the manifest
    two = machine("two")
    assert one.newest is not None
    await two.adopt(one.newest)
    assert texts(two.kernels.channel(record.id)) == texts(node.channel)


async def test_journal_goes_on_from_machine_to_machine(
    machine: Callable[[str], Machine],
) -> None:
    said = []
    manifest, kernel_id, names = None, "", []
    for number, name in enumerate(("one", "two", "three"), 1):
        here = machine(name)
        if manifest is None:
            kernel_id = here.kernels.create("python3").id
            node = Node(here.kernels.channel(kernel_id))
        else:
            await here.adopt(manifest)
            node = Node(here.kernels.channel(kernel_id), node.shim, number)
        node.prints("", name)
        said.append(name)
        manifest = await here.checkpoint()
        names.append((node.channel.journal.name, node.channel.outlet.last_cursor))
    assert texts(node.channel) == said
    first, shared = names[0]
    assert node.channel.journal.shared(first, 10**6) == shared


async def test_damaged_journal_is_named_and_its_kernel_goes_on_without(
    machine: Callable[[str], Machine], tmp_path: Path
) -> None:
    one = machine("one")
    kernels = [one.kernels.create("python3") for _ in range(2)]
    for record in kernels:
        Node(one.kernels.channel(record.id)).prints("", f"of {record.id}")
    manifest = await one.checkpoint()
    [pack] = (tmp_path / "store").rglob("packs/*")
    data = bytearray(pack.read_bytes())
    data[10] ^= 1  # in the first chunk: a file of the first kernel
    pack.chmod(0o600)
    pack.write_bytes(data)
    two = machine("two")
    damaged = await two.adopt(manifest)
    assert len(damaged) == 1
    for record in kernels:
        shown = texts(two.kernels.channel(record.id))
        assert shown == ([] if record.id in damaged else [f"of {record.id}"])
    channel = two.kernels.channel(damaged[0])
    assert channel.positions()["applied"] == manifest.meta["kernels"][damaged[0]]["inputs"]


def test_journal_on_this_disk_is_not_replaced(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    kept = kernels.create("python3")
    assert KernelChannels(kernels).lacking([kept.id, "another"]) == ["another"]
    name = kernels.channel(kept.id).journal.name
    kernels.close()
    (tmp_path / kept.id / "kernel.json").write_text("damaged")
    again = Kernels(tmp_path)
    assert KernelChannels(again).lacking([kept.id]) == []
    again.adopt(KernelRecord(kept.id, "python3"), 0, tmp_path / "nothing")
    assert again.channel(kept.id).journal.name == name
    again.close()
