"""The gateway's status stream, followed: what the session is doing now, and waiting for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from sessionkeeper.bench.client import Server
from sessionkeeper.bench.coverage import Coverage
from sessionkeeper.bench.errors import RunFailed

__all__ = ["Feed"]

SECONDS = 180.0


class Feed:
    """The newest status of a session."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self._coverage = Coverage()
        self._new = asyncio.Condition()
        self._listeners: list[Callable[[dict[str, Any]], None]] = []

    def listen(self, told: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Have `told` called with the newest status and each that follows; what ends that."""
        self._listeners.append(told)
        if self.status:
            told(self.status)
        return lambda: self._listeners.remove(told)

    @classmethod
    @asynccontextmanager
    async def of(cls, gateway: Server) -> AsyncIterator[Feed]:
        """Follow a gateway's events as long as the context is open."""
        feed = cls()
        url = gateway.websocket_url("/api/sessionkeeper/events")
        async with connect(url, additional_headers=gateway.headers, max_size=None) as socket:
            reading = asyncio.create_task(feed._read(socket))
            try:
                yield feed
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    @property
    def node(self) -> str:
        """Where the session is; empty when it is nowhere."""
        return str(self.status.get("node") or "")

    async def committed(self, since: float) -> None:
        """Wait until everything that was so at `since` (seconds since the epoch) is in a committed
        checkpoint and none is being made. RunFailed after `SECONDS`."""
        await self._until(
            lambda: self._running() and self._coverage.rests(since), "was not checkpointed"
        )

    async def moved(self, node: str) -> None:
        """Wait until the session runs elsewhere than on `node`. RunFailed after `SECONDS`."""
        await self._until(lambda: self._running() and self.node != node, f"did not leave {node}")

    async def left(self, node: str) -> None:
        """Wait until the session is not on `node` any more, wherever it is. Raises RunFailed."""
        await self._until(lambda: self.node != node, f"did not leave {node}")

    def _running(self) -> bool:
        return self.status.get("state") == "running"

    async def _until(self, so: Callable[[], bool], complaint: str) -> None:
        try:
            async with asyncio.timeout(SECONDS), self._new:
                await self._new.wait_for(so)
        except TimeoutError:
            said = [event["text"] for event in self.status.get("events", [])[-3:]]
            raise RunFailed(f"the session {complaint} in {SECONDS:.0f} s; {said}") from None

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            async with self._new:
                self.status = json.loads(text)
                self._coverage.feed(time.time(), self.status)
                for told in self._listeners:
                    told(self.status)
                self._new.notify_all()
