"""A UI server in a process of its own, in front of a gateway in the test's event loop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import ui_gateway
from tornado.httpclient import HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from ui_gateway import Gateway, until

TOKEN = "ui-token"

_RUN = """
import json, logging, sys
from pathlib import Path
from sessionkeeper.ui.app import UiSettings, run
settings = json.load(sys.stdin)
logging.basicConfig(level=logging.INFO)  # as `sessionkeeper ui` does
run(UiSettings(**{**settings, "state": Path(settings["state"])}))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class UiServer:
    """A UI server that can be started again on the same port and state."""

    def __init__(self, state: Path, gateway_url: str, token: str = ui_gateway.TOKEN) -> None:
        self.state = state
        self.port = free_port()
        self.settings = {
            "state": str(state),
            "host": "127.0.0.1",
            "port": self.port,
            "token": TOKEN,
            "gateway_url": gateway_url,
            "gateway_token": token,
        }
        self.log = state.with_suffix(".log")
        self.client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=2**30)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN], stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.settings).encode())
        self.process.stdin.close()
        await until(self.answers, 60)

    async def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return await asyncio.to_thread(self.process.wait, 20)

    async def fetch(
        self, path: str, method: str = "GET", token: str | None = TOKEN, **kwargs: Any
    ) -> HTTPResponse:
        headers = {"Authorization": f"token {token}"} if token else {}
        return await self.client.fetch(
            self.url + path,
            method=method,
            headers={**headers, **kwargs.pop("headers", {})},
            raise_error=False,
            follow_redirects=False,
            request_timeout=120,
            allow_nonstandard_methods=True,
            **kwargs,
        )

    async def api(self, method: str, path: str, model: Any = None, expect: int = 200) -> Any:
        """One request to `/api/<path>`; its JSON."""
        body = None if model is None else json.dumps(model)
        response = await self.fetch(f"/api/{path}", method, body=body)
        assert response.code == expect, (response.code, response.body)
        return json.loads(response.body) if response.body else None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    root = tmp_path_factory.mktemp("workspace")
    one = Gateway(root, tmp_path_factory.mktemp("kernels"))
    await one.start()
    yield one
    await one.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ui(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UiServer]:
    server = UiServer(tmp_path_factory.mktemp("ui") / "state", gateway.url)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(autouse=True)
def on_one_side(request: pytest.FixtureRequest) -> None:
    """A gateway that a test before made difficult is easy again."""
    if "gateway" in request.fixturenames:
        gateway = request.getfixturevalue("gateway")
        gateway.busy = 0
        gateway.swallow.clear()
        gateway.requests.clear()
