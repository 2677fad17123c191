"""The gateway's API for operators, as the spawner needs it (docs/architecture.md has the list)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from sessionkeeper.addresses import SESSION_HEADER
from sessionkeeper.errors import SessionkeeperError, Unavailable

__all__ = ["Gateway", "GatewayRefused"]

PATIENCE = 20.0
"""Seconds that a request waits for a gateway that restarts."""

_PAUSE = 0.2
_SECONDS = 600.0
"""For what brings a session up, saves it, or deletes much of a store."""

Json = dict[str, Any]


class GatewayRefused(SessionkeeperError):
    """The gateway answered, and not as one hopes. It has the gateway's `code` and hint; `status`
    is that of HTTP.
    """

    code = "gateway"

    def __init__(self, status: int, answer: Json) -> None:
        message = str(answer.get("message") or f"the gateway answered with HTTP status {status}")
        super().__init__(message, hint=str(answer.get("hint") or ""))
        self.status = status
        self.code = str(answer.get("code") or self.code)
        self.retryable = bool(answer.get("retryable"))


class Gateway:
    """`url` as for clients, `token` the operator's. Every call raises `Unavailable` when the
    gateway was away for `PATIENCE` seconds, and `GatewayRefused`.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._token = token

    async def begin(self, wish: Json) -> str | None:
        """Begin a session `{"name", "owner", …}`; its token, None if there is one of that name."""
        try:
            return str((await self._call("POST", "sessions", wish))["token"])
        except GatewayRefused as error:
            if error.code != "session_exists":
                raise
            return None

    async def session(self, name: str) -> Json | None:
        """What is known of it: `{"session", "status", "why"}`; None: there is none."""
        try:
            return await self._call("GET", _of(name))
        except GatewayRefused as error:
            if error.code != "unknown_session":
                raise
            return None

    async def new_token(self, name: str) -> str:
        """A token of the session; those before it are no good any more."""
        return str((await self._call("POST", _of(name, "token"), {"alone": True}))["token"])

    async def opens(self, name: str, token: str) -> bool:
        """Whether the token is one of that session."""
        try:
            answer = await self._call("GET", "status", token=token)
        except GatewayRefused as error:
            if error.status != HTTPStatus.UNAUTHORIZED:
                raise
            return False
        return bool(answer["session"] == name)

    async def resume(self, name: str) -> None:
        """Have it run again; returns when it does, or waits for a node."""
        await self._call("POST", _of(name, "resume"), {})

    async def hibernate(self, name: str) -> None:
        """Have it saved, and its compute released; returns when that is done."""
        await self._call("POST", _of(name, "hibernate"), {})

    async def delete(self, name: str) -> None:
        """Delete it for good. One that is gone already is as good as deleted."""
        try:
            await self._call("DELETE", _of(name))
        except GatewayRefused as error:
            if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
                raise

    async def statuses(self, name: str) -> AsyncGenerator[Json, None]:
        """Its status and each change of it, over restarts of the gateway, without end."""
        url = f"ws{self._url.removeprefix('http')}/api/sessionkeeper/events"
        headers = {"Authorization": f"token {self._token}", SESSION_HEADER: name}
        while True:
            try:
                async with connect(url, additional_headers=headers, proxy=None) as feed:
                    async for text in feed:
                        yield json.loads(text)
            except (OSError, WebSocketException):
                pass
            await asyncio.sleep(_PAUSE)

    async def _call(
        self, method: str, path: str, body: Json | None = None, token: str | None = None
    ) -> Json:
        deadline = time.monotonic() + PATIENCE
        headers = {"Authorization": f"token {token or self._token}"}
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            while True:
                url = f"{self._url}/api/sessionkeeper/{path}"
                try:
                    answer = await client.request(method, url, json=body, headers=headers)
                    break
                except (httpx.TransportError, httpx.InvalidURL) as error:
                    # All of them may be asked twice: a name is given to one session only.
                    if time.monotonic() > deadline:
                        words = f"the gateway at {self._url} does not answer: {error!r}"
                        raise Unavailable(words) from error
                await asyncio.sleep(_PAUSE)
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            found = {}
        if answer.status_code >= HTTPStatus.BAD_REQUEST or not isinstance(found, dict):
            raise GatewayRefused(answer.status_code, found if isinstance(found, dict) else {})
        return found


def _of(name: str, action: str = "") -> str:
    return f"sessions/{quote(name, safe='')}" + (f"/{action}" if action else "")
