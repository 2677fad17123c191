from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)

import gateway
from gateway.auth import redact
from gateway.errors import HTTP_STATUS, BadFrame, GatewayError, RemoteError, http_status
from gateway.frames import IOPUB, SHELL, decode_payload, encode_payload
from gateway.messages import (
    execution_state,
    legacy_to_payload,
    payload_to_legacy,
    payload_to_v1,
    summary_of,
    v1_to_payload,
)
from gateway.shim_archive import SHIPPED

HEADER = json.dumps({"msg_id": "m", "msg_type": "stream", "session": "s"}).encode()
PARTS = [HEADER, b"{}", b"{}", b'{"text": "\xc3\xa9"}']


@given(buffers=st.lists(st.binary(max_size=50), max_size=4))
def test_v1_is_what_jupyter_server_reads_and_writes(buffers: list[bytes]) -> None:
    frame = payload_to_v1(encode_payload(IOPUB, [*PARTS, *buffers]))
    assert frame is not None
    channel, parts = deserialize_msg_from_ws_v1(frame)
    assert channel == "iopub"
    assert [bytes(p) for p in parts] == [*PARTS, *buffers]
    theirs = serialize_msg_to_ws_v1([*PARTS, *buffers], "shell")
    assert v1_to_payload(theirs) == encode_payload(SHELL, [*PARTS, *buffers])


def test_legacy_is_what_jupyter_server_reads() -> None:
    text = payload_to_legacy(encode_payload(IOPUB, PARTS))
    assert isinstance(text, str)
    message = json.loads(text)
    assert (message["msg_type"], message["channel"]) == ("stream", "iopub")
    assert message["content"] == {"text": "é"}
    binary = payload_to_legacy(encode_payload(IOPUB, [*PARTS, b"one", b"two"]))
    assert isinstance(binary, bytes)
    message = deserialize_binary_message(binary)
    assert [bytes(b) for b in message["buffers"]] == [b"one", b"two"]
    message["channel"] = "shell"
    del message["buffers"]
    channel, parts = decode_payload(legacy_to_payload(json.dumps(message, default=str)))
    assert (channel, json.loads(bytes(parts[0]))["msg_id"]) == (SHELL, "m")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x07" + bytes(7),
        b"\xff" * 64,
        serialize_msg_to_ws_v1(PARTS, "iopub"),
        serialize_msg_to_ws_v1(PARTS, "attic"),
        serialize_msg_to_ws_v1(PARTS[:2], "shell"),
    ],
)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        v1_to_payload(frame)


@pytest.mark.parametrize(
    "frame", ["", "[]", "{}", '{"channel": "attic"}', '{"header": 1}', b"", b"\xff" * 9]
)
def test_what_is_no_legacy_message_is_refused(frame: str | bytes) -> None:
    with pytest.raises(BadFrame):
        legacy_to_payload(frame)


@pytest.mark.parametrize(
    ("header", "content", "state"),
    [
        (b'{"msg_type": "status"}', b'{"execution_state": "busy"}', "busy"),
        (b'{"msg_type":"status"}', b'{"execution_state":"idle"}', "idle"),
        (b'{"msg_type": "stream"}', b'{"text": "\\"execution_state\\": \\"idle\\""}', None),
        (b'{"msg_type": "stream", "session": "status"}', b'{"execution_state": "idle"}', None),
    ],
)
def test_state_is_read_of_status_messages_alone(
    header: bytes, content: bytes, state: str | None
) -> None:
    assert execution_state([header, b"{}", b"{}", content]) == state


def test_summary_is_the_first_line_and_short() -> None:
    assert summary_of("execute_request", b'{"code": "\\n x = 1\\ny"}') == "x = 1"
    long = summary_of("execute_request", json.dumps({"code": "y" * 100}).encode())
    assert len(long) == 60
    assert summary_of("execute_request", b'{"code": ""}') == "execute_request"
    assert summary_of("comm_open", b"{}") == "comm_open"


def test_tokens_are_taken_out_of_urls() -> None:
    assert redact("/a?token=abc&x=1") == "/a?token=[secret]&x=1"
    assert redact("/a?x=1&token=abc") == "/a?x=1&token=[secret]"


def leaves(kind: type[GatewayError]) -> list[type[GatewayError]]:
    children = (leaf for child in kind.__subclasses__() for leaf in leaves(child))
    return [kind, *(child for child in children if child.__module__ == kind.__module__)]


@pytest.mark.parametrize("kind", leaves(GatewayError))
def test_every_error_has_a_status(kind: type[GatewayError]) -> None:
    assert kind is RemoteError or kind.code in HTTP_STATUS


def test_errors_of_agents_keep_their_words_and_get_a_status() -> None:
    error = RemoteError({"code": "x", "message": "m", "hint": "h", "retryable": True})
    assert error.to_wire() == {"code": "x", "message": "m", "hint": "h", "retryable": True}
    assert http_status(error) == 503
    assert http_status(ValueError()) == 500


@pytest.mark.parametrize(
    "name",
    [module.removesuffix(".py") for module in SHIPPED],
)
def test_what_is_shipped_runs_with_old_pythons(name: str) -> None:
    source = (Path(gateway.__file__).parent / f"{name}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    allowed = {f"gateway.{module.removesuffix('.py')}" for module in SHIPPED}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gateway"):
            assert node.module in allowed
