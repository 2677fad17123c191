"""A page's side of a kernel's WebSocket with numbered messages, as the lab extension has it."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake

from system.client import PATIENCE
from system.running import System

V1 = "v1.kernel.websocket.jupyter.org"


class Page:
    """It connects as often as it is told, always going on after what it has."""

    def __init__(self, system: System, kernel_id: str) -> None:
        self._system = system
        self._kernel_id = kernel_id
        self._place: dict[str, Any] | None = None
        self._socket: ClientConnection
        self.messages: list[dict[str, Any]] = []

    async def connect(self) -> None:
        """Wait for the server, if need be."""
        place = f"{self._place['journal']}:{self._place['cursor']}" if self._place else ""
        where = self._system.url().replace("http", "ws", 1)
        # A session id of its own each time: nothing depends on it.
        query = f"session_id={uuid.uuid4().hex}&numbered={place}"
        headers = {"Authorization": f"token {self._system.state.token('ui')}"}
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    self._socket = await connect(
                        f"{where}/api/kernels/{self._kernel_id}/channels?{query}",
                        subprotocols=[V1],  # type: ignore[list-item]
                        additional_headers=headers,
                        max_size=None,
                        proxy=None,
                    )
                    return
                except (OSError, InvalidHandshake):
                    await asyncio.sleep(0.05)  # it is being started again

    async def run(self, code: str) -> None:
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "page",
            "username": "reader",
            "version": "5.3",
            "date": "",
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        await self._socket.send(serialize_msg_to_ws_v1(parts, "shell"))

    async def read(self) -> dict[str, Any] | None:
        """The next message; None if that was no message."""
        frame = await asyncio.wait_for(self._socket.recv(), PATIENCE)
        if isinstance(frame, str):
            self._place = json.loads(frame)
            return None
        cursor = int.from_bytes(frame[:8], "big")
        if cursor:
            assert self._place is not None
            self._place["cursor"] = cursor
        _, parts = deserialize_msg_from_ws_v1(frame[8:])
        message = {
            "type": json.loads(parts[0])["msg_type"],
            "content": json.loads(parts[3]),
        }
        self.messages.append(message)
        return message

    def drop(self) -> None:
        """Lose the connection, without a word."""
        self._socket.transport.abort()
