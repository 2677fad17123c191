"""Stock servers with `--gateway-url` work against our gateway, unchanged."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from gateway_rig import TOKEN, Rig, header
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from websockets.asyncio.client import connect


@pytest.mark.parametrize("program", ["jupyterlab", "notebook"])
async def test_stock_jupyter_server_runs_a_cell(rig: Rig, tmp_path: Path, program: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, "--allow-root", "--no-browser"),
        *(
            f"--ServerApp.port={port}",
            "--IdentityProvider.token=ui",
        ),
        *(f"--gateway-url={rig.url}", f"--ServerApp.root_dir={tmp_path}"),
        stderr=asyncio.subprocess.DEVNULL,
        env={
            **os.environ,
            "JUPYTER_GATEWAY_AUTH_TOKEN": TOKEN,
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        },
    )
    try:
        url = f"http://127.0.0.1:{port}"
        auth = {"Authorization": "token ui"}
        http = AsyncHTTPClient()
        specs = None
        async with asyncio.timeout(90):
            while specs is None:
                assert server.returncode is None
                try:
                    specs = await http.fetch(HTTPRequest(f"{url}/api/kernelspecs", headers=auth))
                except ConnectionRefusedError:
                    await asyncio.sleep(0.1)  # it says that it runs before it listens
        assert "bash" in json.loads(specs.body)["kernelspecs"]
        wish = {"path": "n.ipynb", "type": "notebook", "name": "", "kernel": {"name": "python3"}}
        made = await http.fetch(
            HTTPRequest(f"{url}/api/sessions", "POST", auth, json.dumps(wish), request_timeout=60)
        )
        kernel_id = json.loads(made.body)["kernel"]["id"]
        assert kernel_id in rig.kernels
        head = header("execute_request", "s")
        content = {"code": "print(6 * 7)", "silent": False, "store_history": True}
        socket_url = url.replace("http", "ws") + f"/api/kernels/{kernel_id}/channels?session_id=s"
        async with connect(socket_url, additional_headers=auth) as tab:
            message = {"header": head, "parent_header": {}, "metadata": {}, "content": content}
            await tab.send(json.dumps({**message, "channel": "shell", "buffers": []}))
            shown, replied, idle = "", False, False
            async with asyncio.timeout(60):
                while not (replied and idle):
                    message = json.loads(await tab.recv())
                    if message["content"].get("name") == "stdout":
                        shown += message["content"]["text"]
                    replied = replied or message["msg_type"] == "execute_reply"
                    idle = idle or message["content"].get("execution_state") == "idle"
        assert shown == "42\n"
        for action in ("interrupt", "restart"):
            await http.fetch(
                HTTPRequest(
                    f"{url}/api/kernels/{kernel_id}/{action}", "POST", auth, "", request_timeout=60
                )
            )
        await http.fetch(HTTPRequest(f"{url}/api/kernels/{kernel_id}", "DELETE", auth))
        assert kernel_id not in rig.kernels
    finally:
        server.terminate()
        await server.wait()
