"""docs/link-vectors.json is what is on the wire, byte by byte."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_link import Memory

from gateway.calls import decode_frame
from gateway.errors import BadFrame
from gateway.frames import (
    VERSION,
    Hello,
    LinkError,
    decode_payload,
    encode_ack,
    encode_data,
    encode_payload,
    kind_of,
    stamp_of,
)
from gateway.link import GatewayLink
from gateway.outbox import PIECE, SEVERAL, Outbox, Pieces, frames_in
from gateway.shim_agent import AgentSocket
from gateway.shim_kernel import Message, too_long
from gateway.shim_link import ShimLink

VECTORS = json.loads((Path(__file__).parents[3] / "docs" / "link-vectors.json").read_text())


def each(group: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[group], ids=lambda vector: vector["name"])


def wire(vector: dict[str, Any]) -> bytes:
    return bytes.fromhex(vector["hex"])


def test_version_is_the_documents() -> None:
    assert list(VERSION) == VECTORS["version"]


@each("payloads")
def test_payload(vector: dict[str, Any]) -> None:
    parts = [part.encode() for part in vector["parts"]]
    assert encode_payload(vector["channel"], parts) == wire(vector)
    channel, views = decode_payload(wire(vector))
    assert (channel, [bytes(view) for view in views]) == (vector["channel"], parts)


@each("frames")
def test_frame(vector: dict[str, Any]) -> None:
    stamp = vector["epoch"], vector["seq"]
    assert kind_of(wire(vector)) == vector["kind"]
    assert stamp_of(wire(vector)) == stamp
    payload = vector.get("payload")
    made = encode_ack(*stamp) if payload is None else encode_data(*stamp, bytes.fromhex(payload))
    assert made == wire(vector)


@each("hellos")
def test_hello(vector: dict[str, Any]) -> None:
    hello = Hello.decode(vector["frame"].encode())
    said = {name: value for name, value in hello._asdict().items() if value is not None}
    assert {**said, "received": list(hello.received)} == vector["says"]
    again = Hello.decode(hello.encode())
    assert again == hello


@each("refused")
def test_refused_with_words(vector: dict[str, Any]) -> None:
    gateway = GatewayLink(Memory())
    gateway.attach(1)
    for end in (lambda: gateway.receive(wire(vector)), lambda: ShimLink().receive(wire(vector), 1)):
        with pytest.raises(LinkError, match=vector["words"]) as refused:
            end()
        assert refused.value.code == vector["code"]


def test_stream_between_agent_and_shim_in_any_pieces() -> None:
    vector = VECTORS["shim_stream"]
    data = wire(vector)
    for cut in range(len(data) + 1):
        ours, theirs = socket.socketpair()
        agent, got = AgentSocket(theirs), []
        for part in (data[:cut], data[cut:]):
            ours.sendall(part)
            got += agent.read()
        assert [frame.hex() for frame in got] == vector["frames"]
        agent.close()
        ours.close()


@each("agent_messages")
def test_message_between_agent_and_gateway(vector: dict[str, Any]) -> None:
    pieces, got = Pieces(), []
    for message in vector["hex"]:
        assert not got, "the frame was whole before"
        kernel_id, body = decode_frame(bytes.fromhex(message))
        assert kernel_id == vector["kernel"]
        taken = [pieces.take(kernel_id, one) for one in frames_in(body)]
        got += [bytes(frame).hex() for frame in taken if frame is not None]
    assert got == vector["frames"]


def test_short_frames_go_together_as_the_document_has_it() -> None:
    vector = VECTORS["agent_messages"][-1]
    outbox = Outbox(pieces=True, several=True)
    for frame in vector["frames"]:
        outbox.frame(vector["kernel"], bytes.fromhex(frame))
    assert outbox.next() == (bytes.fromhex(vector["hex"][0]), vector["kernel"], 0)
    assert outbox.next() is None


@given(
    st.lists(st.one_of(st.integers(1, 100), st.integers(PIECE - 50, PIECE + 50)), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_frames_come_in_order_whatever_goes_together(
    sizes: list[int], pieces: bool, several: bool
) -> None:
    """Also to a peer that knows nothing of it; none of its messages is longer than a piece."""
    kernel, outbox, whole = (
        VECTORS["agent_messages"][0]["kernel"],
        Outbox(pieces, several),
        Pieces(),
    )
    sent = [bytes([3]) + bytes([number]) * size for number, size in enumerate(sizes)]
    for frame in sent:
        outbox.frame(kernel, frame)
    got: list[bytes] = []
    left = sum(map(len, sent))
    while (waiting := outbox.next()) is not None:
        message, _, waits = waiting
        assert isinstance(message, bytes)
        body = decode_frame(message)[1]
        assert len(body) <= PIECE + 64 + 4 * len(sizes) or not pieces
        assert several or body[0] != SEVERAL
        taken = (whole.take(kernel, one) for one in frames_in(body))
        got += [bytes(frame) for frame in taken if frame is not None]
        assert 0 <= waits <= left
        left = waits
    assert got == sent


@pytest.mark.parametrize("body", ["070000", "0700000000", "070000000503"])
def test_message_of_several_frames_that_is_cut_off_is_refused(body: str) -> None:
    with pytest.raises(BadFrame, match="several link frames"):
        list(frames_in(bytes.fromhex(body)))


def test_kernels_take_turns_and_calls_go_first() -> None:
    loud, quiet = VECTORS["agent_messages"][0]["kernel"], "00000000-0000-4000-8000-000000000000"
    outbox, pieces = Outbox(pieces=True), Pieces()
    frame = bytes(2_000_000)
    outbox.frame(loud, frame)
    first = outbox.next()
    outbox.frame(quiet, b"\x03quiet")
    outbox.text("heartbeat")
    order = []
    whole = pieces.take(loud, decode_frame(first[0])[1]) if first is not None else None  # type: ignore[arg-type]
    while (waiting := outbox.next()) is not None:
        message, kernel_id, _ = waiting
        order.append(kernel_id)
        if isinstance(message, bytes):
            whole = pieces.take(*decode_frame(message)) or whole
    assert order[:3] == ["", loud, quiet]
    assert order[3:] == [loud] * (len(order) - 3)
    assert whole == frame


def test_pieces_that_were_cut_off_are_forgotten() -> None:
    kernel, outbox, pieces = VECTORS["agent_messages"][0]["kernel"], Outbox(pieces=True), Pieces()
    outbox.frame(kernel, bytes(1_000_000))
    for _ in range(2):
        message = outbox.next()
        assert message is not None
        assert pieces.take(*decode_frame(message[0])) is None  # type: ignore[arg-type]
    assert pieces.take(kernel, b"\x03new") == b"\x03new"
    message = outbox.next()
    assert message is not None
    assert pieces.take(*decode_frame(message[0])) is None  # type: ignore[arg-type]


def test_shim_has_no_more_on_the_way_than_its_credit() -> None:
    shim = ShimLink()
    hello = Hello(1, (0, 0), 1, False, None, 1000)
    shim.connected(1)
    shim.next_frame(1)
    shim.receive(hello.encode(), 1)
    shim.next_frame(1)
    for _ in range(10):
        shim.produce(1, 3, [b"x" * 400])
    frames = []
    while (frame := shim.next_frame(1)) is not None:
        frames.append(frame)
    assert len(frames) == 3  # the third is begun with credit left
    shim.receive(encode_ack(1, 1), 1)
    assert shim.next_frame(1) is not None
    assert shim.next_frame(1) is None
    shim.receive(Hello(1, (1, 4), 1, False).encode(), 1)  # of 1.0: no credit is counted
    shim.next_frame(1)
    rest = 0
    while shim.next_frame(1) is not None:
        rest += 1
    assert rest == 6


@pytest.mark.parametrize(("channel", "kind"), [(3, "stream"), (0, "execute_reply")])
def test_message_that_nothing_carries_is_replaced_by_words(channel: int, kind: str) -> None:
    parts = [b'{"msg_id": "a", "msg_type": "%s"}' % kind.encode(), b'{"msg_id": "b"}', b"{}", b"x"]
    said = too_long(Message(channel, parts), (1 << 30) + 1)
    assert json.loads(said[0])["msg_type"] == kind
    assert said[1] == parts[1]
    assert "1073741825 bytes was left out" in said[3].decode()
