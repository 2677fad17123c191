"""Fixtures by the names that the kernel gateway's own tests use, with our gateway behind them.

A plugin of the pytest that `test_stock_tests.py` starts: real sockets, shims and kernels. What
their tests set in the running application (`kg_max_kernels`, say) are options of ours.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect
from traitlets.config import Config

from gateway.options import Options, read_options
from gateway.starting import prespawn

STOCK = {"KG_LIST_KERNELS": "False"}
"""Where our default is another one."""


@pytest.fixture
def jp_argv() -> list[str]:
    return []


@pytest.fixture
def jp_server_config() -> Config:
    return Config()


@pytest.fixture
def jp_base_url() -> str:
    return "/"


@pytest.fixture
def jp_http_port() -> int:
    return 0


@pytest.fixture
def options(jp_argv: list[str], jp_server_config: Config, jp_base_url: str) -> Options:
    of_config = [
        f"--{section}.{name}={value}"
        for section, values in jp_server_config.items()
        for name, value in values.items()
    ]
    return read_options([*of_config, *jp_argv], environ={**STOCK, "KG_BASE_URL": jp_base_url})


@pytest.fixture
async def rig(options: Options) -> AsyncIterator[Rig]:
    # Not tmp_path: a path of a unix socket has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        rig = Rig(Path(folder), options, options.auth_token or "a-token-of-its-own")
        await rig.agent.dial()
        spawning = asyncio.create_task(prespawn(rig.kernels, rig.keeper, options))
        try:
            yield rig
        finally:
            await spawning
            await rig.close()


class WebApp:
    """The application, as far as their tests look at it."""

    def __init__(self, rig: Rig) -> None:
        self.settings = self
        self._settings = rig.app.settings

    def __setitem__(self, name: str, value: Any) -> None:
        change = {name.removeprefix("kg_"): value}
        self._settings["options"] = replace(self._settings["options"], **change)


@pytest.fixture
def jp_web_app(rig: Rig) -> WebApp:
    return WebApp(rig)


def request_to(rig: Rig, parts: tuple[str, ...], given: dict[str, Any]) -> HTTPRequest:
    headers = {"Authorization": f"token {rig.token}", **given.pop("headers", {})}
    url = "/".join((rig.url, *parts))
    return HTTPRequest(
        url, headers=headers, allow_nonstandard_methods=True, request_timeout=60, **given
    )


@pytest.fixture
def jp_fetch(rig: Rig) -> Any:
    async def fetch(*parts: str, **given: Any) -> HTTPResponse:
        return await AsyncHTTPClient().fetch(request_to(rig, parts, given))

    return fetch


@pytest.fixture
def jp_ws_fetch(rig: Rig) -> Any:
    async def fetch(*parts: str, **given: Any) -> WebSocketClientConnection:
        request = request_to(rig, parts, given)
        request.url = request.url.replace("http", "ws", 1)
        return await websocket_connect(request)

    return fetch
