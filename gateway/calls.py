"""Calls between gateway and agent, in both directions over one WebSocket. Without I/O.

    {"id": n, "method": str, "params": {...}}   answered by
    {"id": n, "result": ...}  or  {"id": n, "error": {code, message, hint, retryable}}
    {"event": str, ...}                         not answered

Binary frames are `kernel id (16 bytes, uuid) + link frame`, or a piece of one, or several
(`gateway.outbox`).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import AgentGone, AgentTimeout, BadFrame, GatewayError, RemoteError

log = logging.getLogger(__name__)

# 1.1: long link frames go in pieces. 1.2: several short ones go together.
VERSION = (1, 2)
Write = Callable[[str], None]


def encode_frame(kernel_id: str, frame: bytes) -> bytes:
    """A binary frame."""
    return b"".join((uuid.UUID(kernel_id).bytes, frame))


def decode_frame(message: bytes) -> tuple[str, memoryview]:
    """`(kernel id, body)`; the body is a view into `message`. Raises `BadFrame`."""
    if len(message) < 17:
        raise BadFrame(f"A frame of {len(message)} bytes has no kernel id.")
    return _kernel_id(message[:16]), memoryview(message)[16:]


@functools.lru_cache(4096)
def _kernel_id(data: bytes) -> str:
    return str(uuid.UUID(bytes=data))


def versions_match(hello: dict[str, Any]) -> bool:
    """Whether the peer's major version is ours."""
    version = hello.get("version")
    return isinstance(version, list | tuple) and bool(version) and version[0] == VERSION[0]


def knows_pieces(hello: dict[str, Any]) -> bool:
    """Whether the peer puts pieces of link frames together (1.1), going by its hello or welcome."""
    return _speaks(hello, (1, 1))


def knows_several(hello: dict[str, Any]) -> bool:
    """Whether the peer takes several link frames in a message (1.2)."""
    return _speaks(hello, (1, 2))


def _speaks(hello: dict[str, Any], wanted: tuple[int, int]) -> bool:
    version = hello.get("version")
    return isinstance(version, list | tuple) and tuple(version[:2]) >= wanted


def error_to_wire(error: Exception) -> dict[str, Any]:
    """Any exception as an error object; those of our trees keep their words."""
    if isinstance(error, GatewayError):
        return error.to_wire()
    if hasattr(error, "code") and hasattr(error, "hint"):
        return {
            "code": str(error.code),
            "message": str(error),
            "hint": str(error.hint),
            "retryable": bool(getattr(error, "retryable", False)),
        }
    message = f"{type(error).__name__}: {error}"
    return {"code": "internal", "message": message, "hint": "", "retryable": False}


class Calls:
    """Calls made and calls answered over one connection; `write` sends a text frame.

    `serve(method, params)` answers the peer's calls, `event(event)` gets its events.
    """

    def __init__(
        self,
        peer: str,
        write: Write,
        serve: Callable[[str, dict[str, Any]], Awaitable[Any]] | None,
        event: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._peer = peer
        self._write = write
        self._serve = serve
        self._event = event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def call(self, method: str, params: dict[str, Any], wait: float) -> Any:
        """The result. Raises `RemoteError`, `AgentTimeout` after `wait` seconds, `AgentGone`."""
        if self._closed:
            raise AgentGone(f"The connection to {self._peer} is closed; {method} was not called.")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._write(json.dumps({"id": number, "method": method, "params": params}))
            return await asyncio.wait_for(future, wait)
        except TimeoutError:
            raise AgentTimeout(f"{self._peer} did not answer {method} in {wait:g} s.") from None
        finally:
            self._waiting.pop(number, None)

    def received(self, text: str | bytes) -> None:
        """Take a text frame. Raises `BadFrame`."""
        try:
            message = json.loads(text)
        except ValueError:
            raise BadFrame("A text frame is not JSON.") from None
        if not isinstance(message, dict):
            raise BadFrame("A text frame is not a JSON object.")
        if "event" in message:
            if self._event is not None:
                self._event(message)
        elif "method" in message:
            task = asyncio.ensure_future(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            future = self._waiting.get(message.get("id", 0))
            if future is None or future.done():
                return
            if "error" in message:
                future.set_exception(RemoteError(message["error"]))
            else:
                future.set_result(message.get("result"))

    async def _answer(self, message: dict[str, Any]) -> None:
        number, method = message.get("id"), str(message["method"])
        try:
            if self._serve is None:
                raise BadFrame(f"Nothing here answers {method}.")
            answer = {
                "id": number,
                "result": await self._serve(method, message.get("params") or {}),
            }
        except Exception as error:
            if not hasattr(error, "code"):
                log.exception("%s failed", method)
            answer = {"id": number, "error": error_to_wire(error)}
        if not self._closed:
            self._write(json.dumps(answer))

    def close(self) -> None:
        """The connection has ended: whoever waits is told."""
        self._closed = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(AgentGone(f"The connection to {self._peer} has ended."))
