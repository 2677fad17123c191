"""Logs: one set of fields, and no secret whoever logs it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from gateway import trace
from gateway.frames import SHELL, encode_ack, encode_data, encode_payload
from gateway.messages import payload_to_v1
from sessionkeeper.logs import JsonLines, TextLines

TOKEN = "d1f3c0ffee"
HEADER = {"msg_id": "m-1", "msg_type": "execute_request", "session": "s"}
PAYLOAD = encode_payload(
    SHELL, [json.dumps(part).encode() for part in (HEADER, {}, {}, {"code": "secret = 1"})]
)


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the trace writes, as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines([TOKEN], "gateway"))
    trace.log.addHandler(handler)
    before = trace.log.level
    trace.log.setLevel(logging.DEBUG)
    yield stream
    trace.log.setLevel(before)
    trace.log.removeHandler(handler)


def record(message: str, *arguments: object, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("a.library", logging.INFO, "f", 1, message, arguments, info)


@pytest.mark.parametrize("form", [JsonLines([TOKEN, ""], "ui"), TextLines([TOKEN, ""])])
def test_a_secret_is_taken_out_of_text_arguments_and_tracebacks(
    form: logging.Formatter,
) -> None:
    for said in (
        record(f"Authorization: token {TOKEN}"),
        record("%s and %r", TOKEN, {"Cookie": TOKEN}),
        record("failed", error=ValueError(f"bad {TOKEN}")),
        record("GET /api?token=another&x=1"),
    ):
        text = form.format(said)
        assert TOKEN not in text
        assert "another" not in text
        assert "[secret]" in text


def test_a_line_is_json_whatever_is_in_it() -> None:
    line = JsonLines([], "node-1").format(record('a "quoted"\nline of Ünïcödé'))
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == ["time", "level", "part", "logger", "message"]
    assert found["message"] == 'a "quoted"\nline of Ünïcödé'
    assert (found["level"], found["part"]) == ("info", "node-1")


def test_a_message_is_known_at_each_hop_in_whatever_form_it_passes(written: io.StringIO) -> None:
    assert trace.enabled()
    in_browser = payload_to_v1(PAYLOAD)
    assert in_browser is not None
    trace.websocket_frame("ui.from_browser", "k", in_browser)
    trace.message("gateway.journaled", "k", PAYLOAD, number=7)
    trace.link_frame("agent.to_shim", "k", encode_data(3, 7, PAYLOAD))
    trace.link_frame("agent.from_shim", "k", encode_data(3, 9, PAYLOAD))
    trace.link_frame("agent.from_shim", "k", encode_ack(3, 7))
    for nonsense in (b"", b"\x02", b"\xff" * 40):
        trace.link_frame("agent.to_shim", "k", nonsense)
        trace.websocket_frame("ui.from_browser", "k", nonsense)
        trace.message("gateway.journaled", "k", nonsense)
    found = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line.get("msg_id") for line in found] == ["m-1"] * 4 + [None]
    assert [line["hop"] for line in found][-1] == "shim.applied"
    assert (found[2]["epoch"], found[2]["number"]) == (3, 7)
    assert (found[3]["epoch"], found[3]["seq"]) == (3, 9)
    assert "secret = 1" not in written.getvalue()


def test_nothing_is_decoded_unless_somebody_wants_to_know() -> None:
    assert trace.log.getEffectiveLevel() > logging.DEBUG
    assert not trace.enabled()
