"""A Jupyter client as a browser is one: REST, and a WebSocket per kernel. The same code speaks to
every server that is measured.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.wire import SUBPROTOCOL, decode, encode

__all__ = ["Answer", "Kernel", "Server"]

SECONDS = 120.0
"""How long an answer is waited for."""


@dataclass(frozen=True)
class Server:
    """A server with Jupyter's REST API below `url`, and the token that it wants."""

    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What gives access."""
        return {"Authorization": f"token {self.token}"}

    def websocket_url(self, path: str) -> str:
        """Of one of its WebSockets."""
        return self.url.replace("http", "ws", 1) + path

    def call(self, method: str, path: str, body: object = None, seconds: float = SECONDS) -> Any:
        """One request; its answer's JSON, None without one. Blocks. Raises RunFailed for an answer
        that is an error, OSError or HTTPException without one."""
        content = self.fetch(method, path, body, seconds)
        return json.loads(content) if content else None

    def fetch(self, method: str, path: str, body: object = None, seconds: float = SECONDS) -> bytes:
        """As `call`; whatever it is answered with."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=seconds)
        try:
            sent = None if body is None else json.dumps(body)
            headers = {**self.headers, "Content-Type": "application/json"}
            connection.request(method, where.path.rstrip("/") + path, sent, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            said = content.decode(errors="replace")[:300]
            raise RunFailed(f"{method} {path} was answered with {answer.status}: {said}")
        return content

    async def ask(self, method: str, path: str, body: object = None, seconds: float = 120.0) -> Any:
        """As `call`, in a thread."""
        return await asyncio.to_thread(self.call, method, path, body, seconds)


@dataclass(frozen=True)
class Message:
    """A kernel message. `at`: when it was received, in seconds of `time.perf_counter`."""

    channel: str
    type: str
    content: dict[str, Any]
    at: float


@dataclass(frozen=True)
class Answer:
    """What a request led to. `replied` and `ended` (reply and idle, both) are moments of
    `time.perf_counter`."""

    text: str
    ok: bool
    replied: float
    ended: float


class Kernel:
    """One kernel of a server, and the WebSocket to it."""

    def __init__(self, server: Server, kernel_id: str, socket: ClientConnection) -> None:
        self.id = kernel_id
        self._server = server
        self._socket = socket
        self._session = uuid.uuid4().hex
        self._binary = socket.subprotocol == SUBPROTOCOL

    @classmethod
    @asynccontextmanager
    async def started(cls, server: Server, name: str = "python3") -> AsyncIterator[Kernel]:
        """POST /api/kernels and connect, as a browser does. Deleted in the end."""
        async with AsyncExitStack() as stack:
            kernel_id = (await server.ask("POST", "/api/kernels", {"name": name}))["id"]
            stack.push_async_callback(_delete, server, kernel_id)
            socket = await stack.enter_async_context(
                connect(
                    server.websocket_url(f"/api/kernels/{kernel_id}/channels"),
                    additional_headers=server.headers,
                    subprotocols=[SUBPROTOCOL],
                    open_timeout=SECONDS,
                    max_size=None,
                    compression=None,
                )
            )
            yield cls(server, kernel_id, socket)

    async def send(self, kind: str, content: dict[str, Any]) -> str:
        """Send a request on the shell channel; its id."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": kind,
            "session": self._session,
            "username": "bench",
            "version": "5.3",
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        await self._socket.send(encode(header, content, binary=self._binary))
        return header["msg_id"]

    async def execute(self, code: str) -> str:
        """Send a cell; the request's id."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        return await self.send("execute_request", content)

    async def messages(self, request: str, seconds: float = SECONDS) -> AsyncIterator[Message]:
        """What comes in answer to a request. Raises RunFailed when nothing at all is received for
        so many seconds, ConnectionClosed when the WebSocket is."""
        while True:
            try:
                async with asyncio.timeout(seconds):  # wait_for takes a task, and its time
                    frame = await self._socket.recv()
            except TimeoutError:
                raise RunFailed(f"the kernel said nothing for {seconds:.0f} s") from None
            at = time.perf_counter()
            received = decode(frame, binary=self._binary)
            if received.request == request:
                yield Message(received.channel, *received.open(), at)

    async def answer(self, request: str, seconds: float = SECONDS) -> Answer:
        """Wait for reply and idle of a request. Raises as `messages`."""
        text, ok, replied, idle = "", False, 0.0, 0.0
        async for message in self.messages(request, seconds):
            if message.type == "clear_output":
                text = ""
            text += text_of(message)
            if message.channel == "shell":
                ok, replied = message.content.get("status") == "ok", message.at
            if message.content.get("execution_state") == "idle":
                idle = message.at
            if replied and idle:
                break
        return Answer(text, ok, replied, max(replied, idle))

    async def run(self, code: str, seconds: float = SECONDS) -> Answer:
        """A cell from its request to its end. RunFailed when it raised something."""
        answer = await self.answer(await self.execute(code), seconds)
        if not answer.ok:
            raise RunFailed(f"the cell {code[:40]!r} failed: {answer.text[-300:]}")
        return answer

    async def info(self) -> Answer:
        """The answer to kernel_info_request."""
        return await self.answer(await self.send("kernel_info_request", {}))

    async def interrupt(self) -> None:
        """POST /api/kernels/<id>/interrupt."""
        await self._server.ask("POST", f"/api/kernels/{self.id}/interrupt")


def text_of(message: Message) -> str:
    """What a message shows; empty for what shows nothing."""
    content = message.content
    match message.type:
        case "stream":
            return str(content["text"])
        case "execute_result" | "display_data":
            return str(content["data"].get("text/plain", ""))
        case "error":
            return f"{content['ename']}: {content['evalue']}"
    return ""


async def _delete(server: Server, kernel_id: str) -> None:
    with suppress(RunFailed):  # what was measured is measured
        await server.ask("DELETE", f"/api/kernels/{kernel_id}")
