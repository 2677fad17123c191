"""Requests that are asked again when a gateway with another journal has the kernel."""

from __future__ import annotations

import json

import pytest
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1

from sessionkeeper.ui import asked
from sessionkeeper.ui.asked import Asked


def message(channel: str, kind: str, msg_id: str, parent: str = "", text: str = "") -> bytes:
    parts = ({"msg_type": kind, "msg_id": msg_id}, {"msg_id": parent}, {}, {"text": text})
    frame: bytes = serialize_msg_to_ws_v1([json.dumps(p).encode() for p in parts], channel)
    return frame


def request(msg_id: str, text: str = "") -> bytes:
    return message("shell", "execute_request", msg_id, text=text)


def test_what_was_acknowledged_and_not_answered_is_asked_again_once() -> None:
    tab = Asked()
    for number, msg_id in enumerate("abc", 1):
        tab.acknowledged(number, request(msg_id))
    tab.acknowledged(4, message("shell", "comm_msg", "d"))  # nothing answers that
    tab.heard(message("iopub", "status", "x", "a"))
    tab.heard(message("shell", "execute_reply", "y", "b"))
    tab.heard(message("control", "interrupt_reply", "z", "of another tab"))
    assert tab.again() == {1: request("a"), 3: request("c")}
    assert tab.again() == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_MOST", 10_000)
    tab = Asked()
    for number in range(100):
        tab.acknowledged(number, request(str(number), "x" * 1000))
    kept = tab.again()
    assert 5 <= len(kept) < 10
    assert max(kept) == 99
