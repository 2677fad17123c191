"""A client that comes back and is not sure what it has shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_shown_once import Scene

from gateway import repaint
from gateway.frames import decode_payload


def page(scene: Scene, had: int, shown_until: int) -> dict[str, str]:
    """What a page shows that is known to have the messages up to cursor `had`, has shown those up
    to `shown_until`, and comes back."""
    outputs = scene.channel.journal.outputs
    payloads = [r.payload for r in outputs.read(1) if r.cursor <= shown_until and not r.hidden]
    payloads += repaint.repaint(outputs, had, "gateway")
    payloads += [record.payload for record in outputs.read(had + 1) if not record.hidden]
    shown: dict[str, str] = {}
    for payload in payloads:
        header, parent, _, content = (json.loads(bytes(p)) for p in decode_payload(payload)[1][:4])
        if header["msg_type"] == "clear_output":
            shown[parent["msg_id"]] = ""
        elif header["msg_type"] == "stream":
            shown[parent["msg_id"]] = shown.get(parent["msg_id"], "") + content["text"]
    return shown


def talk(scene: Scene) -> None:
    for msg_id in ("a", "b", "c"):
        scene.ask(msg_id)
        scene.says(msg_id, "status", {"execution_state": "busy"})
        for word in ("1 ", "2 ", "3 "):
            scene.prints(msg_id, word)
        scene.ends(msg_id)


async def test_each_output_is_shown_once_wherever_the_connection_broke(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    talk(scene)
    last = scene.channel.outlet.last_cursor
    for had in range(last):
        for shown_until in range(had, last + 1):
            assert page(scene, had, shown_until) == dict.fromkeys("abc", "1 2 3 ")


async def test_what_was_cleared_by_its_cell_stays_cleared(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.says("a", "status", {"execution_state": "busy"})
    scene.prints("a", "wrong ")
    scene.says("a", "clear_output", {"wait": False})
    scene.prints("a", "right ")
    last = scene.channel.outlet.last_cursor
    assert page(scene, last - 1, last) == {"a": "right "}


async def test_client_that_has_all_is_told_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    talk(scene)
    outputs = scene.channel.journal.outputs
    assert repaint.repaint(outputs, outputs.last, "gateway") == []


async def test_cell_that_comes_after_too_much_is_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.says("a", "status", {"execution_state": "busy"})
    scene.prints("a", "1 ")
    scene.prints("a", "2 ")
    monkeypatch.setattr(repaint, "WINDOW", 10)
    last = scene.channel.outlet.last_cursor
    assert page(scene, last - 1, last) == {"a": "1 2 2 "}
