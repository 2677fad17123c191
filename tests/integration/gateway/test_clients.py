"""Clients that know nothing of us, unchanged: nbclient, papermill, VS Code's Jupyter extension."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import TOKEN, Rig, header, pack_v1, unpack_v1
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from websockets.asyncio.client import connect

NBCLIENT = """
import nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[
    nbformat.v4.new_code_cell("import os; x = 6"),
    nbformat.v4.new_code_cell("print('x is', x)\\nx * 7"),
])
NotebookClient(notebook, kernel_name="python3",
    kernel_manager_class="sessionkeeper.client.GatewayKernels").execute()
"""
PAPERMILL = """
import nbformat, papermill
from sessionkeeper.client import GatewayKernels
given = nbformat.v4.new_notebook(cells=[
    nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}),
    nbformat.v4.new_code_cell("print('x is', x)\\nx * 7"),
], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
nbformat.write(given, "in.ipynb")
notebook = papermill.execute_notebook("in.ipynb", "out.ipynb", parameters={"x": 6},
    progress_bar=False, kernel_manager_class=GatewayKernels)
"""
SHOWN = """
for output in notebook.cells[-1].outputs:
    print(output.get("text") or output["data"]["text/plain"], end=";")
"""


@pytest.mark.parametrize("program", [NBCLIENT, PAPERMILL], ids=["nbclient", "papermill"])
async def test_a_notebook_is_executed(rig: Rig, tmp_path: Path, program: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program + SHOWN),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "JUPYTER_GATEWAY_URL": rig.url,
            "JUPYTER_GATEWAY_AUTH_TOKEN": TOKEN,
            "IPYTHONDIR": str(tmp_path),
        },
    )
    async with asyncio.timeout(120):
        said, errors = await process.communicate()
    assert said.decode() == "x is 6\n;42;", errors.decode()
    assert rig.keeper.done.count("execute_request") >= 2
    assert not rig.kernels.records  # they end what they started


class VsCode:
    """What ms-toolsai.jupyter sends with "Existing Jupyter Server": @jupyterlab/services over
    node's ws, a time in every query against caches, the token in a header and in the WebSocket's
    query (src/kernels/jupyter/session/jupyterKernelSessionFactory.ts and jupyterLabHelper.ts of
    microsoft/vscode-jupyter).
    """

    def __init__(self, rig: Rig, url: str) -> None:
        self.rig, self.base = rig, url

    async def ask(self, method: str, path: str, body: Any = None, well: bool = True) -> Any:
        request = HTTPRequest(
            f"{self.base}/{path}?1700000000000",
            method,
            {
                "Authorization": f"token {TOKEN}",
                "Content-Type": "application/json",
                "Cache-Control": "no-store",
            },
            None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=60,
        )
        answer = await AsyncHTTPClient().fetch(request, raise_error=well)
        return json.loads(answer.body) if answer.body else None

    async def begin(self, notebook: str) -> dict[str, Any]:
        """Validate the server, and open a session for a notebook that stays on the desktop."""
        await asyncio.gather(self.ask("GET", "api/kernels"), self.ask("GET", "api/sessions"))
        specs = await self.ask("GET", "api/kernelspecs")
        # There are no files here: the extension logs that and goes on with a name of its own.
        refused = await self.ask("POST", "api/contents", {"type": "notebook"}, well=False)
        assert refused["reason"] == "Not Found"
        name = f"{notebook}-jvsc-{uuid.uuid4()}.ipynb"
        wish = {
            "path": name,
            "name": name,
            "type": "notebook",
            "kernel": {"name": specs["default"]},
        }
        session: dict[str, Any] = await self.ask("POST", "api/sessions", wish)
        assert session["path"] == session["notebook"]["path"] == name
        return session


@pytest.mark.parametrize("protocol", ["v1.kernel.websocket.jupyter.org", None])
async def test_vs_code_runs_a_cell_of_a_notebook_on_the_desktop(
    rig: Rig, protocol: str | None
) -> None:
    client = VsCode(rig, rig.url)
    session = await client.begin("analysis")
    kernel, me = session["kernel"]["id"], str(uuid.uuid4())
    place = f"ws://127.0.0.1:{rig.port}/api/kernels/{kernel}/channels"
    async with connect(
        f"{place}?session_id={me}&token={TOKEN}",
        subprotocols=[protocol] if protocol else None,  # type: ignore[list-item]
        additional_headers={"Authorization": f"token {TOKEN}"},
    ) as socket:

        async def send(msg_type: str, content: dict[str, Any], channel: str = "shell") -> str:
            head = header(msg_type, me)
            if protocol:
                parts = [json.dumps(part).encode() for part in (head, {}, {}, content)]
                await socket.send(pack_v1(channel, parts))
            else:
                message = {"header": head, "parent_header": {}, "metadata": {}, "content": content}
                await socket.send(json.dumps({**message, "channel": channel, "buffers": []}))
            return str(head["msg_id"])

        heard: list[dict[str, Any]] = []

        async def hear() -> None:
            frame = await socket.recv()
            heard.append(unpack_v1(frame) if isinstance(frame, bytes) else json.loads(frame))

        async def answers(*asked: str) -> dict[str, list[Any]]:
            """What came for the requests, by type, once each has its reply and its idle."""
            async with asyncio.timeout(60):
                while True:
                    came: dict[str, list[Any]] = {}
                    ends: set[tuple[str, str]] = set()
                    for message in heard:
                        parent, kind = message["parent_header"].get("msg_id"), message["header"]
                        if parent not in asked:
                            continue
                        came.setdefault(kind["msg_type"], []).append(message["content"])
                        if message["content"].get("execution_state") == "idle":
                            ends.add((parent, "idle"))
                        if kind["msg_type"].endswith("_reply"):
                            ends.add((parent, "reply"))
                    if len(ends) == 2 * len(asked):
                        return came
                    await hear()

        # It asks twice: @jupyterlab/services when the socket opens, the extension until it is idle.
        await answers(await send("kernel_info_request", {}), await send("kernel_info_request", {}))
        silent = {"silent": True, "store_history": False, "stop_on_error": False}
        request = {"silent": False, "store_history": True, "allow_stdin": True}
        quiet = await send("execute_request", {"code": "import os", **silent})
        code = "x = input('name? ')\nprint('hello', x)\n{'a': 1}"
        asked = await send("execute_request", {"code": code, "user_expressions": {}, **request})
        await answers(quiet)
        async with asyncio.timeout(60):
            while not any(one["header"]["msg_type"] == "input_request" for one in heard):
                await hear()
        await send("input_reply", {"status": "ok", "value": "world"}, "stdin")
        came = await answers(asked)
        assert "".join(c["text"] for c in came["stream"]) == "hello world\n"
        assert came["execute_result"][0]["data"]["text/plain"] == "{'a': 1}"
        completed = await answers(
            await send("complete_request", {"code": "os.getc", "cursor_pos": 7}),
            await send("inspect_request", {"code": "os", "cursor_pos": 2, "detail_level": 0}),
        )
        assert "getcwd" in str(completed["complete_reply"][0]["matches"])
        # Variables are looked at over the debugger's channel.
        initialize = {"seq": 1, "type": "request", "command": "debugInfo", "arguments": {}}
        debug = await answers(await send("debug_request", initialize, "control"))
        assert debug["debug_reply"][0]["success"] is True
        # It is busy before it heeds interrupts, here for longer than it takes to send one.
        unready = (
            "import time; k = get_ipython().kernel; hook = k.pre_handler_hook\n"
            "k.pre_handler_hook = lambda: (time.sleep(0.02), hook())"
        )
        await answers(await send("execute_request", {"code": unready, **request}))
        sleeping = await send("execute_request", {"code": "time.sleep(99)", **request})
        async with asyncio.timeout(30):
            while rig.kernels.channel(kernel).execution_state != "busy":
                await hear()
        await client.ask("POST", f"api/kernels/{kernel}/interrupt", {})
        assert (await answers(sleeping))["execute_reply"][0]["ename"] == "KeyboardInterrupt"
    await client.ask("DELETE", f"api/sessions/{session['id']}")
    assert kernel not in rig.kernels
