"""The session's status, as the gateway tells it, for everybody who wants to know.

One WebSocket to the gateway, however many browsers listen. Anyone who subscribes gets the newest
status at once and each change after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

__all__ = ["StatusFeed"]

Status = dict[str, Any]

_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
_PING_SECONDS = 2.0


class StatusFeed:
    """The newest status and its changes, over `GET /api/sessionkeeper/events`.

    While the gateway is away the status is the last one with `state` `gateway-away`.
    """

    def __init__(self, gateway_url: str, token: str, log: Any) -> None:
        self._url = (
            "ws" + gateway_url.rstrip("/").removeprefix("http") + "/api/sessionkeeper/events"
        )
        self._headers = {"Authorization": f"token {token}"}
        self._log = log
        self._status: Status = _away({}, "the gateway was not reached yet")
        self._listeners: set[Callable[[Status], None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> Status:
        """The newest status. Do not change it."""
        return self._status

    def start(self) -> None:
        """Connect, and stay connected. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="status feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @contextlib.contextmanager
    def _listening(self, listener: Callable[[Status], None]) -> Any:
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def subscribe(self) -> AsyncIterator[str]:
        """Statuses as JSON, beginning with the present one. Skips some for a slow listener.

        `now` in them is this machine's clock, so that a browser whose clock is off
        shows right ages.
        """
        # Room for one: who is slow wants the newest, not all.
        newest: asyncio.Queue[Status] = asyncio.Queue(maxsize=1)

        def put(status: Status) -> None:
            if newest.full():
                newest.get_nowait()
            newest.put_nowait(status)

        with self._listening(put):
            put(self._status)
            while True:
                yield json.dumps({**await newest.get(), "now": time.time()})

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async with connect(
                    self._url,
                    additional_headers=self._headers,
                    ping_interval=_PING_SECONDS,
                    ping_timeout=_PING_SECONDS,
                    open_timeout=5.0,
                    close_timeout=1.0,
                    compression=None,
                    max_size=2**24,
                    proxy=None,
                ) as socket:
                    async for text in socket:
                        failures = 0
                        self._set(json.loads(text))
                reason = "the gateway closed the connection"
            except (OSError, ValueError, WebSocketException, InvalidHandshake, InvalidURI) as error:
                reason = str(error) or type(error).__name__
            if failures == 0:
                self._log.info("Session status: %s, connecting again", reason)
            self._set(_away(self._status, reason))
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    def _set(self, status: Status) -> None:
        if status == self._status:
            return
        self._status = status
        for listener in self._listeners:
            listener(status)


def _away(last: Status, reason: str) -> Status:
    return {
        "session": "default",
        "node": None,
        "epoch": None,
        "runtime": None,
        "engine": None,
        "checkpoint": None,
        "checkpointing": False,
        "warnings": [],
        "events": [],
        "kernels": {},
        **last,
        "state": "gateway-away",
        "message": f"the gateway does not answer: {reason}",
    }
