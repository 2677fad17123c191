"""A notebook's view of a kernel: cells are sent over one WebSocket, their outputs gathered."""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

PATIENCE = 60.0
"""Seconds until a test gives up waiting for an event. Never how long something should take."""


class Cell:
    """One request and what came of it. `outputs` is what a notebook shows, in nbformat's words,
    as the Jupyter messaging protocol has it: streams are joined, `clear_output` clears."""

    def __init__(self, msg_id: str, code: str) -> None:
        self.msg_id = msg_id
        self.code = code
        self.outputs: list[dict[str, Any]] = []
        self.reply: dict[str, Any] | None = None
        self.types: list[str] = []
        self.comms: list[dict[str, Any]] = []
        self._idle = False
        self._clear_next = False
        self._changed = asyncio.Condition()

    @property
    def text(self) -> str:
        """What it printed to standard output."""
        return "".join(o["text"] for o in self.outputs if o.get("name") == "stdout")

    @property
    def shown(self) -> str:
        """Everything as plain text."""
        return "".join(_plain(o) for o in self.outputs)

    @property
    def numbers(self) -> list[int]:
        """The whole lines printed so far, each of which begins with a number."""
        lines = self.text.rpartition("\n")[0].split("\n")
        return [int(line.split()[0]) for line in lines if line]

    @property
    def done(self) -> bool:
        return self._idle and self.reply is not None

    async def until(self, condition: Callable[[Cell], bool], timeout: float = PATIENCE) -> Cell:
        """Wait until the condition holds. AssertionError with what there was when it never does."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: condition(self) or self._lost)
        except TimeoutError:
            raise AssertionError(f"waited in vain; {self!r}") from None
        assert condition(self), f"the connection was closed; {self!r}"
        return self

    async def end(self, timeout: float = PATIENCE) -> Cell:
        """Wait for the reply and for the kernel being idle."""
        return await self.until(lambda cell: cell.done, timeout)

    _lost = False

    async def lose(self) -> None:
        self._lost = True
        async with self._changed:
            self._changed.notify_all()

    async def take(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        self.types.append(kind)
        if message["channel"] in ("shell", "control"):
            self.reply = content
        elif kind == "comm_msg":
            self.comms.append(content["data"])
        elif kind == "status":
            self._idle = self._idle or content["execution_state"] == "idle"
        elif kind == "clear_output":
            self._clear_next = content["wait"]
            if not content["wait"]:
                self.outputs = []
        elif kind in {"stream", "display_data", "execute_result", "error"}:
            self._show(kind, content)
        async with self._changed:
            self._changed.notify_all()

    def _show(self, kind: str, content: dict[str, Any]) -> None:
        if self._clear_next:
            self.outputs, self._clear_next = [], False
        last = self.outputs[-1] if self.outputs else {}
        if kind == "stream" and last.get("name") == content["name"]:
            last["text"] += content["text"]
            return
        kept = {k: v for k, v in content.items() if k not in {"transient", "execution_count"}}
        self.outputs.append({"output_type": kind, **kept})

    def __repr__(self) -> str:
        return f"{self.code[:60]!r}: reply {self.reply}, shown {self.shown[-2000:]!r}"


def _plain(output: dict[str, Any]) -> str:
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


class KernelClient:
    """One kernel over one WebSocket that is never opened again: whatever happens to the node, it
    must stay. `socket_url` is that of the server, without a path."""

    def __init__(
        self, kernel_id: str, socket_url: str, token: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self.id = kernel_id
        self._tls = tls
        self._session = uuid.uuid4().hex
        self._url = f"{socket_url}/api/kernels/{kernel_id}/channels?session_id={self._session}"
        self._token = token
        self._cells: dict[str, Cell] = {}
        self._dead = asyncio.Event()
        self._socket: ClientConnection
        self._reader: asyncio.Task[None]

    async def open(self, *, busy: bool = False) -> KernelClient:
        """Connect, and wait for the kernel's first answer unless it is known to be busy."""
        self._socket = await connect(
            self._url,
            additional_headers={"Authorization": f"token {self._token}"},
            max_size=None,
            proxy=None,
            ssl=self._tls,
        )
        self._reader = asyncio.create_task(self._read())
        if not busy:
            await (await self.request("kernel_info_request", {})).end()
        return self

    def follow(self, cell: Cell) -> Cell:
        """The cell of another client, as this one sees it from now on."""
        return self._cells.setdefault(cell.msg_id, Cell(cell.msg_id, cell.code))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    @property
    def connected(self) -> bool:
        """Whether the one WebSocket is still open."""
        return self._socket.state is State.OPEN

    async def send(self, code: str, *, cell: str = "", allow_stdin: bool = False) -> Cell:
        """Run a cell, of the id `cell` in a notebook; returns at once."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": True,
        }
        metadata = {"cellId": cell, "deletedCells": []} if cell else {}
        return await self.request("execute_request", content, metadata)

    async def run(self, code: str, timeout: float = PATIENCE) -> Cell:
        """Run a cell to its end."""
        return await (await self.send(code)).end(timeout)

    async def ask(self, code: str) -> str:
        """Run a cell and return what it shows, as text; AssertionError when it fails."""
        cell = await self.run(code)
        assert cell.reply is not None
        assert cell.reply["status"] == "ok", cell
        return cell.shown.strip()

    async def dies(self) -> None:
        """Wait until the server says that the kernel is dead."""
        await asyncio.wait_for(self._dead.wait(), PATIENCE)

    async def answer(self, text: str) -> None:
        """Answer what a cell asks for."""
        await self.request("input_reply", {"value": text, "status": "ok"}, channel="stdin")

    async def request(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        channel: str = "shell",
    ) -> Cell:
        """Send any request; returns at once."""
        cell = Cell(uuid.uuid4().hex, content.get("code", kind))
        self._cells[cell.msg_id] = cell
        header = {
            "msg_id": cell.msg_id,
            "msg_type": kind,
            "session": self._session,
            "username": "reader",
            "version": "5.3",
            "date": "",
        }
        message = {
            "header": header,
            "parent_header": {},
            "metadata": metadata or {},
            "content": content,
        }
        await self._socket.send(json.dumps({"channel": channel, **message}))
        return cell

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                message = json.loads(frame)
                if message["content"].get("execution_state") == "dead":
                    self._dead.set()
                cell = self._cells.get(message["parent_header"].get("msg_id"))
                if cell is not None:
                    await cell.take(message)
        except ConnectionClosed:
            pass
        finally:
            for cell in self._cells.values():
                await cell.lose()
