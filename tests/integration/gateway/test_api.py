"""REST and the stock WebSocket protocols, refusals in words, and jupyter_server as a client."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from typing import Any

import pytest
from gateway_rig import TOKEN, Client, Rig, header, pack_v1, unpack_v1
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.dial import AgentLink
from gateway.errors import AgentGone, RemoteError, Unauthorized

GONE = "00000000-0000-4000-8000-000000000000"


async def fetch(
    rig: Rig, path: str, method: str = "GET", body: Any = None, token: str | None = TOKEN
) -> HTTPResponse:
    headers = {"Authorization": f"token {token}"} if token else {}
    return await AsyncHTTPClient().fetch(
        HTTPRequest(
            rig.url + path,
            method,
            headers,
            None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=30,
        ),
        raise_error=False,
    )


async def get(rig: Rig, path: str, method: str = "GET", body: Any = None) -> Any:
    response = await fetch(rig, path, method, body)
    assert response.code < 300, response.body
    return json.loads(response.body) if response.body else None


async def test_kernels_by_rest(rig: Rig) -> None:
    assert (await get(rig, "/api"))["version"]
    specs = await get(rig, "/api/kernelspecs")
    assert specs["default"] == "python3"
    assert specs["kernelspecs"]["bash"]["spec"]["language"] == "bash"
    logo = specs["kernelspecs"]["bash"]["resources"]["logo-64x64"]
    assert (await fetch(rig, logo)).body == b"a picture"
    assert (await get(rig, "/api/kernelspecs/bash"))["name"] == "bash"
    wish = {"name": "bash", "env": {"KERNEL_X": "1"}, "path": "a/b"}
    model = await get(rig, "/api/kernels", "POST", wish)
    kernel_id = model["id"]
    assert rig.kernels.record(kernel_id).env == {"KERNEL_X": "1", "KERNEL_GATEWAY": "1"}
    assert [k["id"] for k in await get(rig, "/api/kernels")] == [kernel_id]
    client = await Client(rig, kernel_id).open()
    await client.run("echo 1")
    model = await get(rig, f"/api/kernels/{kernel_id}")
    assert (model["execution_state"], model["connections"]) == ("idle", 1)
    assert (await fetch(rig, f"/api/kernels/{kernel_id}/interrupt", "POST")).code == 204
    assert (await get(rig, f"/api/kernels/{kernel_id}/restart", "POST"))["id"] == kernel_id
    assert (await fetch(rig, f"/api/kernels/{kernel_id}", "DELETE")).code == 204
    assert client.socket is not None
    await asyncio.wait_for(client.socket.wait_closed(), 5)
    assert client.socket.close_code == 4404
    assert (await fetch(rig, f"/api/kernels/{kernel_id}")).code == 404
    await client.close()


async def test_notebook_sessions_outlive_the_gateway(rig: Rig) -> None:
    wish = {"path": "a/n.ipynb", "name": "n", "type": "notebook", "kernel": {"name": "python3"}}
    session = await get(rig, "/api/sessions", "POST", wish)
    assert session["notebook"]["path"] == "a/n.ipynb"
    assert rig.kernels.record(session["kernel"]["id"]).path == "a"
    assert (await get(rig, "/api/sessions", "POST", wish))["id"] == session["id"]
    moved = await get(rig, f"/api/sessions/{session['id']}", "PATCH", {"path": "b/m.ipynb"})
    assert moved["path"] == "b/m.ipynb"
    assert rig.agent.link is not None
    await rig.restart_gateway()
    await rig.agent.link.wait_closed()
    await rig.agent.dial()
    (found,) = await get(rig, "/api/sessions")
    assert (found["id"], found["path"]) == (session["id"], "b/m.ipynb")
    assert found["kernel"]["id"] == session["kernel"]["id"]
    assert (await fetch(rig, f"/api/sessions/{session['id']}", "DELETE")).code == 204
    assert await get(rig, "/api/kernels") == []
    assert (await fetch(rig, f"/api/sessions/{session['id']}")).code == 404


@pytest.mark.parametrize(
    ("path", "method", "body", "status", "words"),
    [
        (f"/api/kernels/{GONE}", "GET", None, 404, "There is no kernel"),
        (f"/api/kernels/{GONE}/restart", "POST", None, 404, "There is no kernel"),
        (f"/api/kernels/{GONE}", "DELETE", None, 404, "There is no kernel"),
        ("/api/kernels", "POST", {"name": "cobol"}, 404, "There is: bash, broken, "),
        ("/api/kernels", "POST", {"kernel_id": "7"}, 400, "A kernel id is a UUID"),
        ("/api/kernels", "POST", [1], 400, "not a JSON object"),
        ("/api/kernelspecs/cobol", "GET", None, 404, "There is no kernelspec 'cobol'"),
        ("/api/sessions", "POST", {}, 400, "needs a 'path'"),
        (f"/api/sessions/{GONE}", "GET", None, 404, "There is no notebook session"),
        ("/nothing", "GET", None, 404, "There is nothing at /nothing"),
    ],
)
async def test_bad_requests_are_refused_with_words(
    rig: Rig, path: str, method: str, body: Any, status: int, words: str
) -> None:
    response = await fetch(rig, path, method, body)
    assert response.code == status
    error = json.loads(response.body)
    assert words in error["message"]
    assert {"code", "hint", "retryable", "reason"} <= set(error)


@pytest.mark.parametrize("token", [None, "wrong", ""])
@pytest.mark.parametrize("path", ["/api", "/api/kernels", "/api/kernelspecs", "/nothing"])
async def test_nothing_is_told_without_the_token(rig: Rig, path: str, token: str | None) -> None:
    response = await fetch(rig, path, token=token)
    assert response.code == 401
    error = json.loads(response.body)
    assert "oken" in error["message"]
    assert "Authorization: token" in error["hint"]


async def test_token_may_be_in_the_query_and_is_never_logged(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = await fetch(rig, f"/api?x=1&token={TOKEN}", token=None)
    assert response.code == 200
    await fetch(rig, f"/api/kernels/{GONE}?token={TOKEN}", token=None)
    socket = f"ws://127.0.0.1:{rig.port}/api/kernels/{GONE}/channels?token={TOKEN}"
    with pytest.raises(InvalidStatus) as refused:
        await connect(socket)
    assert refused.value.response.status_code == 404
    said = "".join(r.getMessage() for r in caplog.records if r.name.startswith("gateway"))
    assert "token=[secret]" in said
    assert TOKEN not in said


async def test_no_node_is_said_and_leaves_no_kernel_behind(rig: Rig) -> None:
    assert rig.agent.link is not None
    await rig.agent.link.close()
    await rig.keeper.until(lambda: rig.keeper.connection is None)
    response = await fetch(rig, "/api/kernels", "POST", {"name": "python3"})
    assert response.code == 503
    assert json.loads(response.body)["retryable"] is True
    assert await get(rig, "/api/kernels") == []


async def test_agents_are_refused_with_words(rig: Rig) -> None:
    with pytest.raises(Unauthorized, match="refused the agent's token"):
        await AgentLink.connect(rig.url, "wrong", {"node": "x"})
    with pytest.raises(AgentGone, match="cannot be reached"):
        await AgentLink.connect("http://127.0.0.1:1", TOKEN, {"node": "x"})
    with pytest.raises(RemoteError, match="speaks version") as refused:
        await AgentLink.connect(rig.url, TOKEN, {"node": "x", "version": [2, 0]})
    assert "same major version" in refused.value.hint


async def test_errors_of_an_agent_arrive_as_they_were(rig: Rig) -> None:
    assert rig.keeper.connection is not None
    with pytest.raises(RemoteError, match="no attribute 'dance'"):
        await rig.keeper.connection.call("dance", {})


@pytest.mark.parametrize("how", ["header", "query", "subprotocol"])
async def test_stock_v1_protocol(rig: Rig, how: str) -> None:
    kernel_id = await rig.start_kernel()
    url = f"ws://127.0.0.1:{rig.port}/api/kernels/{kernel_id}/channels?session_id=s"
    protocols, headers = ["v1.kernel.websocket.jupyter.org"], {}
    if how == "header":
        headers["Authorization"] = f"Bearer {TOKEN}"
    elif how == "query":
        url += f"&token={TOKEN}"
    else:
        protocols.append(f"v1.token.websocket.jupyter.org.{TOKEN}")
    async with connect(url, additional_headers=headers, subprotocols=protocols) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == "v1.kernel.websocket.jupyter.org"
        head = header("kernel_info_request", "s")
        parts = [json.dumps(part).encode() for part in (head, {}, {}, {})]
        await socket.send(pack_v1("shell", parts))
        async for frame in socket:
            assert isinstance(frame, bytes)
            message = unpack_v1(frame)
            if message["header"]["msg_type"] == "kernel_info_reply":
                break
        assert message["content"]["language_info"]["name"] == "python"


async def test_stock_client_that_comes_back_goes_on_where_it_was(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    url = f"ws://127.0.0.1:{rig.port}/api/kernels/{kernel_id}/channels?session_id=s&token={TOKEN}"
    head = header("execute_request", "s")
    code = "import time\nfor i in range(50):\n  print(i, flush=True)\n  time.sleep(.01)"
    content = {"code": code}
    request = {"header": head, "parent_header": {}, "metadata": {}, "content": content}
    text, replied = "", False

    def shown(message: dict[str, Any]) -> str:
        content = message["content"]
        return content["text"] if content.get("name") == "stdout" else ""

    async with connect(url) as socket:
        await socket.send(json.dumps({**request, "channel": "shell", "buffers": []}))
        async for frame in socket:
            message = json.loads(frame)
            text += shown(message)
            if text.count("\n") > 10:
                break
    await rig.keeper.until(lambda: "execute_request" in rig.keeper.done)
    async with connect(url) as socket:
        async for frame in socket:
            message = json.loads(frame)
            text += shown(message)
            replied = replied or message["msg_type"] == "execute_reply"
            if message["content"].get("execution_state") == "idle" and replied:
                break
    # What was on the wire when the client left may be lost to a stock client, nothing after it.
    lines = [int(line) for line in text.split()]
    assert lines == sorted(set(lines))
    assert lines[-1] == 49


async def test_bad_frames_end_the_connection_with_words(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("bash")
    for frame in (b"\x01", b"\x07" + bytes(20), b"\x01" + bytes(8) + b"\xff" * 30, "text"):
        client = await Client(rig, kernel_id).open()
        assert client.socket is not None
        await client.socket.send(frame)
        await asyncio.wait_for(client.socket.wait_closed(), 5)
        assert client.socket.close_code == 4400
        assert client.socket.close_reason
        await client.close()


async def test_journal_of_another_gateway_resets_the_client(rig: Rig) -> None:
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("print(1)")
    seen = len(client.got)
    await client.close()
    client.journal, client.cursor = "another", 99999
    client.notices.clear()
    await client.open()
    assert client.notices[0]["reset"] is True
    await client.until(lambda: len(client.got) >= 2 * seen)
    await client.close()


async def test_one_plus_one_is_quick(rig: Rig) -> None:
    """Not a timed test: it prints what it measured, and fails only at Nagle's 40 ms."""
    kernel_id = await rig.start_kernel()
    client = await Client(rig, kernel_id).open()
    await client.run("1+1")
    took = []
    for _ in range(60):
        began = time.perf_counter()
        await client.run("1+1")
        took.append(1000 * (time.perf_counter() - began))
    print(f"1+1: p50 {statistics.median(took):.1f} ms, max {max(took):.1f} ms")
    assert statistics.median(took) < 40
    await client.close()
