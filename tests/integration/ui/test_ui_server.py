"""Who gets in, what outlives the server, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from conftest import TOKEN, UiServer
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from ui_gateway import until

from sessionkeeper.errors import PortTaken, UsageError
from sessionkeeper.ui.app import UiSettings, run

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(("token", "said"), [(None, "got none"), ("wrong", "got a wrong one")])
@pytest.mark.parametrize("path", ["/api/contents", "/api/kernels", "/sessionkeeper/status"])
async def test_api_without_the_token_is_refused_with_words(ui, path, token, said):
    response = await ui.fetch(path, token=token)
    assert response.code == 403
    message = json.loads(response.body)["message"]
    assert said in message
    assert "sessionkeeper up" in message


async def test_websocket_without_the_token_is_refused(ui):
    for path in ("/sessionkeeper/events", "/api/kernels/0-0-0-0-0/channels"):
        response = await ui.fetch(
            path, token=None, headers={"Connection": "Upgrade", "Upgrade": "websocket"}
        )
        assert response.code == 403


async def test_browser_without_the_token_gets_the_login_page(ui):
    response = await ui.fetch("/lab", token=None)
    assert (response.code, response.headers["Location"]) == (302, "/login?next=%2Flab")
    page = (await ui.fetch("/login", token=None)).body.decode()
    assert "token" in page


async def test_token_is_in_no_log(ui):
    await ui.fetch(f"/api/status?token={TOKEN}", token=None)
    await ui.fetch("/api/status")
    assert TOKEN not in ui.log.read_text()


async def test_there_are_no_terminals(ui):
    assert (await ui.fetch("/api/terminals")).code == 404


async def test_status_comes_at_once_and_at_each_change(ui, gateway):
    gateway.say(node="node-1", state="running")
    url = f"{ui.url}/sessionkeeper/events".replace("http", "ws", 1)
    socket = await websocket_connect(HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"}))
    assert json.loads(await socket.read_message())["node"] == "node-1"
    gateway.say(node="node-2", message="moved from node-1 to node-2 in 0.9 s")
    assert json.loads(await socket.read_message())["node"] == "node-2"
    answer = json.loads((await ui.fetch("/sessionkeeper/status")).body)
    assert answer["message"] == "moved from node-1 to node-2 in 0.9 s"

    await gateway.stop()
    away = json.loads(await socket.read_message())
    assert (away["state"], away["node"]) == ("gateway-away", "node-2")
    await gateway.start()
    async with asyncio.timeout(10):
        while json.loads(await socket.read_message())["state"] != "running":
            pass
    socket.close()


def wish(path: str, kernel: str = "python3") -> dict:
    return {"path": path, "type": "notebook", "name": "", "kernel": {"name": kernel}}


async def test_kernel_starts_in_the_directory_that_was_asked_for(ui, gateway):
    await ui.api("POST", "kernels", {"name": "python3", "path": "work"}, expect=201)
    assert gateway.requests == ["start python3 in 'work' with {'KERNEL_GATEWAY': '1'}"]


async def test_kernel_is_interrupted_restarted_and_ended(ui, gateway):
    kernel = await gateway.start_kernel()
    gateway.requests.clear()
    await ui.api("POST", f"kernels/{kernel}/interrupt", {}, expect=204)
    assert (await ui.api("POST", f"kernels/{kernel}/restart", {}))["id"] == kernel
    await ui.api("DELETE", f"kernels/{kernel}", expect=204)
    assert gateway.requests == [
        f"interrupt {kernel}",
        "start python3 in '' with {}",
        f"stop {kernel}",
    ]


async def test_notebook_session_is_the_gateways(ui, gateway):
    session = await ui.api("POST", "sessions", wish("w/s.ipynb"), expect=201)
    assert gateway.requests[-1].startswith("start python3 in 'w'")
    again = await ui.api("POST", "sessions", wish("w/s.ipynb"), expect=201)
    assert again["id"] == session["id"]
    renamed = await ui.api("PATCH", f"sessions/{session['id']}", {"path": "t.ipynb"})
    assert renamed["path"] == "t.ipynb"
    changed = await ui.api("PATCH", f"sessions/{session['id']}", {"kernel": {"name": "python3"}})
    assert changed["kernel"]["id"] != session["kernel"]["id"]
    assert session["kernel"]["id"] not in gateway.kernels
    assert [s["path"] for s in await ui.api("GET", "sessions")] == ["t.ipynb"]
    await ui.api("DELETE", f"sessions/{session['id']}", expect=204)
    assert await ui.api("GET", "sessions") == []


async def test_kernelspec_that_is_not_there_is_said(ui):
    refusal = await ui.api("POST", "sessions", wish("u.ipynb", "fortran"), expect=501)
    assert "fortran" in refusal["message"]


async def test_kernel_start_waits_for_a_gateway_that_restarts(ui, gateway):
    await gateway.stop()
    start = asyncio.create_task(ui.api("POST", "kernels", {"name": "python3"}, expect=201))
    await asyncio.sleep(0.3)  # long enough for the request to find nobody
    assert not start.done()
    await gateway.start()
    assert (await start)["id"] in gateway.kernels


async def test_notebook_sessions_and_kernels_outlive_the_server(gateway, tmp_path: Path):
    ui = UiServer(tmp_path / "state", gateway.url)
    await ui.start()
    session = await ui.api("POST", "sessions", wish("n.ipynb"), expect=201)
    assert await ui.stop() == 0
    assert session["kernel"]["id"] in gateway.kernels
    assert not [r for r in gateway.requests if r.startswith("stop")]

    await ui.start()
    try:
        sessions = await ui.api("GET", "sessions")
        assert [(s["id"], s["path"]) for s in sessions] == [(session["id"], "n.ipynb")]
        assert sessions[0]["kernel"]["id"] == session["kernel"]["id"]

        await ui.api("DELETE", f"kernels/{session['kernel']['id']}", expect=204)
        assert await ui.api("GET", "sessions") == []
    finally:
        await ui.stop()


async def test_kernels_and_specs_stay_listed_while_the_gateway_is_away(ui, gateway):
    kernel = await gateway.start_kernel()
    before = await ui.api("GET", "kernels")
    await ui.api("GET", "kernelspecs")
    await gateway.stop()
    try:
        assert kernel in [model["id"] for model in before]
        assert await ui.api("GET", "kernels") == before
        assert (await ui.api("GET", "kernelspecs"))["default"] == "python3"
    finally:
        await gateway.start()


async def test_unknown_kernel_is_said(ui):
    unknown = "00000000-0000-0000-0000-000000000000"
    refusal = await ui.api("GET", f"kernels/{unknown}", expect=404)
    assert unknown in refusal["message"]
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    response = await ui.fetch(
        f"/api/kernels/{unknown}/channels", headers={**upgrade, "Sec-WebSocket-Key": "a"}
    )
    assert response.code == 404


async def test_taken_port_is_an_error_with_a_hint(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = UiSettings(tmp_path, "127.0.0.1", port, "t", "http://127.0.0.1:1", "g")
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}") as caught:
            run(settings)
    assert "--port" in caught.value.hint


@pytest.mark.parametrize(
    ("token", "url", "said"), [("", "http://g", "token"), ("t", "g:1", "no gateway URL")]
)
async def test_settings_that_cannot_work_are_refused(tmp_path: Path, token, url, said):
    with pytest.raises(UsageError, match=said):
        run(UiSettings(tmp_path, "127.0.0.1", 0, token, url, "g"))
    assert TOKEN not in repr(UiSettings(tmp_path, "h", 1, TOKEN, url, TOKEN))


async def test_server_is_light_when_idle(ui):
    await until(ui.answers)
    resident = next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{ui.process.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    assert resident < 160, f"{resident:.0f} MB"
    assert os.getpid() != ui.process.pid
