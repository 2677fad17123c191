"""Every request ends: with the kernel's reply, or with an error and `idle` that say why."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_shown_once import Scene

from gateway import owed
from gateway.channel import KernelChannel
from gateway.frames import IOPUB, SHELL, encode_payload
from gateway.journal import Journal
from gateway.kernels import Compute, KernelRecord, Kernels


def reopen(scene: Scene) -> None:
    """The gateway's process was killed, and is started again."""
    scene.channel.close(deleted=False)
    scene.shown.clear()
    scene.channel = KernelChannel("k", Journal(scene.folder), scene.told)
    scene.open()


def ended_with(scene: Scene, msg_id: str) -> tuple[str, str]:
    """Error name and text of the reply; AssertionError unless there is one reply and one idle."""
    [reply] = [c for of, kind, c in scene.shown if of == msg_id and kind.endswith("_reply")]
    states = [
        c["execution_state"] for of, kind, c in scene.shown if (of, kind) == (msg_id, "status")
    ]
    assert states.count("idle") == 1
    return reply["ename"], reply["evalue"]


def submit(
    channel: KernelChannel, msg_id: str, *parts: bytes, kind: str = "execute_request"
) -> None:
    header = {"msg_id": msg_id, "msg_type": kind, "session": "s"}
    rest = parts or (b"{}", b"{}", b'{"code": "x"}')
    channel.submit(encode_payload(SHELL, [json.dumps(header).encode(), *rest]))


def says_idle(scene: Scene, msg_id: str) -> None:
    header = json.dumps({"msg_type": "status", "msg_id": f"idle-{msg_id}"}).encode()
    parent = json.dumps({"msg_id": msg_id}).encode()
    parts = [header, parent, b"{}", b'{"execution_state": "idle"}']
    scene.shim.produce(scene.epoch, IOPUB, parts)
    scene.settle()


async def test_request_while_no_node_is_there_is_delivered_when_one_is(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.channel.detach_node()
    submit(scene.channel, "a")
    reopen(scene)
    scene.attach()
    assert scene.asked == ["a"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_kernel_that_ends_a_request_without_a_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    monkeypatch.setattr(owed, "WITHIN", 0.01)
    scene = Scene(tmp_path)
    submit(scene.channel, "a", kind="unheard_of_request")
    scene.settle()
    if restarted:
        monkeypatch.setattr(owed, "WITHIN", 60.0)
    says_idle(scene, "a")
    if restarted:
        monkeypatch.setattr(owed, "WITHIN", 0.01)
        reopen(scene)
        scene.attach()
    async with asyncio.timeout(5):
        while scene.channel.ends.requests.unfinished():
            await asyncio.sleep(0.002)
    assert ended_with(scene, "a") == (
        "NoReply",
        "The kernel ended this unheard_of_request without a reply.",
    )


async def test_reply_after_idle_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "WITHIN", 0.05)
    scene = Scene(tmp_path)
    scene.ask("a")
    says_idle(scene, "a")
    scene.ends("a")
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, later.set)  # after what must not happen
    await later.wait()
    assert scene.count("a", "execute_reply") == 1


@pytest.mark.parametrize("broken", range(3))
async def test_request_that_no_kernel_could_read(tmp_path: Path, broken: int) -> None:
    scene = Scene(tmp_path)
    parts = [b"{}", b"{}", b'{"code": "x"}']
    parts[broken] = b'{"code": '
    submit(scene.channel, "a", *parts)
    name = ("parent_header", "metadata", "content")[broken]
    assert ended_with(scene, "a") == (
        "BadRequest",
        f"The {name} of this message is not a JSON object.",
    )
    assert scene.asked == []


async def test_session_that_another_gateway_has(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.channel.refuse("another gateway has this session")
    submit(scene.channel, "b")
    for msg_id in "ab":
        assert ended_with(scene, msg_id)[0] == "KernelElsewhere"
    scene.channel.refuse("")
    scene.ask("c")
    assert scene.asked == ["a", "c"]


async def test_gateway_killed_while_it_withdraws_a_request(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.channel.detach_node()
    submit(scene.channel, "a")
    scene.channel.journal.inputs.void(1)  # and killed before it said so
    reopen(scene)
    assert ended_with(scene, "a")[0] == "Withdrawn"
    scene.attach()
    assert scene.asked == []


async def test_gateway_killed_while_it_notes_that_the_kernel_ended(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    submit(kernels.channel(record.id), "a")
    record.state = "ended"
    kernels.save(record)  # and killed before whoever waits was told
    kernels.close()
    again = Kernels(tmp_path)
    assert again.channel(record.id).ends.requests.unfinished() == []
    said = [bytes(r.payload) for r in again.channel(record.id).outlet.records(1)]
    assert sum(b"execute_reply" in one for one in said) == 1
    again.close()


async def test_kernel_that_cannot_be_started_again(tmp_path: Path) -> None:
    class Broken(Compute):
        async def restart(self, record: KernelRecord, next_seq: int, applied: int) -> None:
            submit(kernels.channel(record.id), "meanwhile")
            raise OSError("there is no python3")

    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    with pytest.raises(OSError, match="no python3"):
        await kernels.restart(record.id, Broken())
    channel = kernels.channel(record.id)
    submit(channel, "later")
    assert channel.ends.requests.unfinished() == []
    said = [json.loads(json.dumps(str(bytes(r.payload)))) for r in channel.outlet.records(1)]
    assert sum("no python3" in one and "execute_reply" in one for one in said) == 1
    assert sum("The kernel has ended" in one and "execute_reply" in one for one in said) == 1
    kernels.close()


async def test_request_that_is_not_in_the_journal_any_more(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.channel.journal.inputs._log.segment_size = 1
    checkpoint = copy.deepcopy(scene.shim)
    for msg_id in "ab":
        scene.ask(msg_id)
    scene.channel.journal.inputs.release(1)
    scene.restore(checkpoint)
    assert ended_with(scene, "a") == (
        "NodeLost",
        "The node was lost, and the journal does not have this request any more.",
    )
    assert scene.asked[-1] == "b"


async def test_request_that_goes_on_is_known_after_checkpoint_and_restart(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.channel.journal.inputs._log.segment_size = 1
    scene.ask("long")
    for msg_id in "ab":
        scene.ask(msg_id)
        scene.ends(msg_id)
    scene.channel.release(scene.shim.applied, scene.shim.next_seq - 1)
    reopen(scene)
    scene.channel.end("The kernel was killed.")
    assert ended_with(scene, "long")[0] == "KernelEnded"


def test_parts_that_are_large_are_left_to_the_kernel() -> None:
    from gateway.messages import Header, unreadable

    large: Any = b"{" + b" " * (2 << 20)
    header = Header("a", "execute_request", "s", "5.3")
    assert unreadable(header, [b"{}", b"{}", b"{}", large]) == ""


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"version": "5.3"}, "The header of this message has no msg_type."),
        (
            {"msg_type": "execute_request", "version": "new"},
            "The header of this message has the version 'new'.",
        ),
    ],
)
async def test_header_that_no_kernel_could_read(
    tmp_path: Path, said: dict[str, str], wrong: str
) -> None:
    scene = Scene(tmp_path)
    parts = [json.dumps({"msg_id": "a", **said}).encode(), b"{}", b"{}", b'{"code": "x"}']
    scene.channel.submit(encode_payload(SHELL, parts))
    assert scene.asked == []
    assert scene.shown[-1][:2] == ("a", "status")
    if "msg_type" in said:
        assert ended_with(scene, "a") == ("BadRequest", wrong)
