"""The gateway's REST API, asked in words and answered in words."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from sessionkeeper.ui.address import gateway_address

__all__ = ["ask", "gateway_is_away"]

PATIENCE = 20.0
"""Seconds that anything but a GET waits for a gateway that restarts."""

_START_SECONDS = 600.0  # a kernel may wait for a node


async def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer to `method` on `/api/<path>`, None if it is empty.

    Raises `tornado.web.HTTPError` with the gateway's status and words, 503 when it is away. A GET
    does not wait for the gateway, JupyterLab asks again by itself; what a user asked for does, as
    long as it certainly did not get through.
    """
    url, token = gateway_address()
    request = HTTPRequest(
        f"{url}/api/{path}",
        method,
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
        body=None if body is None else json.dumps(body),
        allow_nonstandard_methods=True,
        connect_timeout=5.0,
        request_timeout=_START_SECONDS,
    )
    client = SimpleAsyncHTTPClient(max_clients=100)  # one per event loop
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            response = await client.fetch(request, raise_error=False)
            break
        except ConnectionRefusedError as error:
            if method == "GET" or time.monotonic() > deadline:
                raise _away(error) from error
            await asyncio.sleep(0.1)
        except (OSError, HTTPClientError) as error:
            raise _away(error) from error
    if response.code < 400:
        return json.loads(response.body) if response.body else None
    raise web.HTTPError(response.code, _words(response.body) or f"{response.code}")


def gateway_is_away(error: web.HTTPError) -> bool:
    """Whether it may be asked again in a moment."""
    return error.status_code == 503


def _away(error: Exception) -> web.HTTPError:
    return web.HTTPError(503, f"The gateway does not answer ({error}). Try again in a moment.")


def _words(body: bytes) -> str:
    try:
        answer = json.loads(body)
        hint = answer.get("hint")
        return f"{answer['message']}" + (f" {hint}" if hint else "")
    except (ValueError, KeyError, AttributeError, TypeError):
        return ""
