"""Bytes between browser, UI server and gateway."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.ui import frames

MESSAGE = {
    "header": {"msg_id": "1", "msg_type": "execute_request", "session": "s"},
    "parent_header": {},
    "metadata": {},
    "content": {"code": "1 + 1"},
    "channel": "shell",
}


@given(st.integers(0, 2**64 - 1), st.binary())
def test_message_comes_back_with_its_number(number, payload):
    assert frames.parse(frames.message(number, payload)) == (frames.MESSAGE, number, payload)


def test_bytes_on_the_wire_are_those_of_the_protocol():
    assert frames.message(258, b"x") == b"\x01\x00\x00\x00\x00\x00\x00\x01\x02x"
    assert frames.parse(b'\x03{"event": "welcome"}') == (3, 0, b'{"event": "welcome"}')
    assert frames.parse(b"\x02\x00\x00\x00\x00\x00\x00\x00\x07") == (frames.ACK, 7, b"")


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x01\x00", b"\x04" + bytes(8), b"\xff" * 20])
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(ValueError, match=r"v1\.sessionkeeper"):
        frames.parse(frame)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary()), min_size=2))
def test_frames_that_came_together_are_taken_one_by_one(messages):
    sent = [frames.message(number, payload) for number, payload in messages]
    together = b"\x04" + b"".join(len(one).to_bytes(4, "big") + one for one in sent)
    assert list(frames.each(together)) == [(frames.MESSAGE, *one) for one in messages]


def test_payload_of_a_large_message_is_not_copied():
    [(kind, number, payload)] = frames.each(frames.message(7, bytes(2_000_000)))
    assert (kind, number, payload) == (frames.MESSAGE, 7, bytes(2_000_000))
    assert isinstance(payload, memoryview)


@pytest.mark.parametrize("frame", [b"\x04\x00", b"\x04" + bytes(8), b"\x04\x00\x00\x00\x01"])
def test_frames_together_that_are_cut_off_are_refused(frame):
    with pytest.raises(ValueError, match=r"cut off|v1\.sessionkeeper"):
        list(frames.each(frame))


@given(st.lists(st.binary(), max_size=3))
def test_legacy_message_survives_both_translations(buffers):
    v1 = frames.legacy_to_v1(json.dumps(MESSAGE))
    legacy = json.loads(frames.v1_to_legacy(v1))
    assert {name: legacy[name] for name in MESSAGE} == MESSAGE
    assert (legacy["msg_id"], legacy["msg_type"]) == ("1", "execute_request")

    from jupyter_server.services.kernels.connection.base import (
        deserialize_msg_from_ws_v1,
        serialize_binary_message,
    )

    binary = serialize_binary_message({**MESSAGE, "buffers": buffers})
    channel, parts = deserialize_msg_from_ws_v1(frames.legacy_to_v1(binary))
    assert (channel, parts[4:]) == ("shell", buffers)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"header": {}}'])
def test_what_is_no_kernel_message_is_refused(text):
    with pytest.raises((ValueError, KeyError, TypeError)):
        frames.legacy_to_v1(text)
