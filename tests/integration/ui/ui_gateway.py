"""The real gateway as the UI server sees it, over a socket, with kernels that are a script.

What the keeper adds in a real one is done here in a few lines: the workspace file API on a
directory, and the status events.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import stat as stat_module
import struct
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from tornado import web, websocket
from tornado.httpserver import HTTPServer

from gateway.app import listen, make_app, port_of
from gateway.auth import check_token
from gateway.channel import KernelChannel
from gateway.frames import IOPUB, decode_payload
from gateway.kernels import KernelRecord, Kernels
from gateway.messages import payload_to_v1
from gateway.shim_link import ShimLink
from sessionkeeper.file_version import FileVersion

TOKEN = "gateway-token"
EPOCH = 1


class Gateway:
    """The gateway package over `directory`; what it knows outlives `stop`, as its kernels do."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.port = 0
        self.requests: list[str] = []
        self.busy = 0  # that many file requests are answered 503
        self.swallow: set[str] = set()  # file operations that are done, and not answered
        self.looked: Callable[[Path], None] = lambda path: None  # after a file was looked at
        self.status: dict[str, Any] = status()
        self.compute = ScriptedCompute(self)
        self.listeners: set[Events] = set()
        self._directory = directory
        self._server: HTTPServer | None = None

    async def start(self) -> None:
        self.kernels = Kernels(self._directory)
        for kernel_id, kernel in self.compute.running.items():
            kernel.attach(self.kernels.channel(kernel_id))
        extra = [
            (r"/api/sessionkeeper/files/(.*)", Files, {"gateway": self}),
            (r"/api/sessionkeeper/events", Events, {"gateway": self}),
        ]
        app = make_app(self.kernels, self.compute, TOKEN, extra_handlers=extra)
        self._server = listen(app, self.port)
        self.port = port_of(self._server)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.stop()
        sockets = self._sockets()
        self.kernels.close()
        self.cut(sockets)

    def cut(self, sockets: Iterable[Any] | None = None) -> None:
        """Break all connections, in the middle of whatever they carry."""
        assert self._server is not None
        for connection in list(self._server._connections):
            connection.stream.close()
        for socket in self._sockets() if sockets is None else sockets:
            if socket.ws_connection is not None:
                socket.ws_connection.stream.close()

    def _sockets(self) -> list[Any]:
        channels = [self.kernels.channel(kernel_id) for kernel_id in self.kernels.records]
        feeds = [feed for channel in channels for feed in channel.outlet.feeds]
        return [*self.listeners, *(feed.kernel_gone.__self__ for feed in feeds)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, **changes: Any) -> None:
        self.status = {**self.status, **changes}
        for listener in self.listeners:
            listener.write_message(json.dumps(self.status))

    async def start_kernel(self) -> str:
        record = self.kernels.create("python3")
        await self.compute.start(record, 1, 0)
        return record.id

    def output(self, kernel_id: str, text: str) -> None:
        """The kernel prints."""
        content = {"name": "stdout", "text": text}
        self.compute.running[kernel_id].say(IOPUB, "stream", {}, content)

    def said(self, kernel_id: str) -> list[bytes | None]:
        """What is in the kernel's journal, as a tab gets it."""
        records = self.kernels.channel(kernel_id).outlet.records(1)
        return [message for r in records if (message := payload_to_v1(r.payload)) is not None]


class ScriptedCompute:
    """Kernels in this process, behind the real link. They outlive the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.running: dict[str, ScriptedKernel] = {}
        self.applied: list[bytes] = []  # requests, as tabs send them

    async def start(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        self.gateway.requests.append(f"start {record.name} in {record.path!r} with {record.env}")
        kernel = ScriptedKernel(self.applied, next_seq, applied)
        self.running[record.id] = kernel
        kernel.attach(self.gateway.kernels.channel(record.id))

    async def stop(self, kernel_id: str, final: bool) -> None:
        self.gateway.requests.append(f"stop {kernel_id}")
        self.running.pop(kernel_id, None)

    async def interrupt(self, kernel_id: str) -> None:
        self.gateway.requests.append(f"interrupt {kernel_id}")

    async def restart(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        await self.start(record, next_seq, applied)

    def kernelspecs(self) -> dict[str, dict[str, Any]]:
        spec = {"argv": ["x"], "language": "python", "display_name": "Python 3", "env": {}}
        return {"python3": {"name": "python3", "spec": spec, "resources": {}}}

    async def kernelspec_resource(self, name: str, file: str) -> bytes | None:
        return None


class ScriptedKernel:
    """Says what it is asked to execute."""

    def __init__(self, applied: list[bytes], next_seq: int, last: int) -> None:
        self._applied = applied
        self._link = ShimLink(next_seq, last)
        self._channel: KernelChannel | None = None

    def attach(self, channel: KernelChannel) -> None:
        self._channel = channel
        self._link.connected(EPOCH)
        channel.attach_node(lambda frame: self._soon(self._receive, bytes(frame)), EPOCH)
        self._soon(self._pump)

    def _soon(self, call: Callable[..., None], *arguments: Any) -> None:
        asyncio.get_running_loop().call_soon(call, *arguments)

    def _receive(self, frame: bytes) -> None:
        payload = self._link.receive(frame, EPOCH)
        if payload:
            self._applied.append(payload_to_v1(payload) or b"")
            self._execute(*decode_payload(payload))
        self._pump()

    def _pump(self) -> None:
        assert self._channel is not None
        while (frame := self._link.next_frame(EPOCH)) is not None:
            if self._channel.attached is not None:
                self._channel.receive(frame)

    def say(self, channel: int, kind: str, parent: Any, content: Any, *buffers: bytes) -> None:
        parts = [json.dumps(part).encode() for part in (header(kind), parent, {}, content)]
        self._link.produce(EPOCH, channel, [*parts, *buffers])
        self._pump()

    def _execute(self, channel: int, parts: list[memoryview]) -> None:
        parent = json.loads(bytes(parts[0]))
        kind = parent["msg_type"]
        self.say(IOPUB, "status", parent, {"execution_state": "busy"})
        if kind == "execute_request":
            code = json.loads(bytes(parts[3]))["code"]
            text = "x" * int(code[4:]) if code.startswith("big ") else code
            self.say(IOPUB, "stream", parent, {"name": "stdout", "text": text})
        if kind in REPLIES:
            reply = {"status": "ok", **REPLIES[kind]}
            self.say(channel, kind.replace("request", "reply"), parent, reply)
        self.say(IOPUB, "status", parent, {"execution_state": "idle"})


REPLIES: dict[str, dict[str, Any]] = {
    "execute_request": {"execution_count": 1, "user_expressions": {}, "payload": []},
    "comm_info_request": {"comms": {}},
    "history_request": {"history": []},
    "kernel_info_request": {
        "protocol_version": "5.3",
        "implementation": "scripted",
        "implementation_version": "1",
        "language_info": {
            "name": "python",
            "version": "3",
            "mimetype": "text/x-python",
            "file_extension": ".py",
        },
        "banner": "",
        "help_links": [],
    },
}


def status(**changes: Any) -> dict[str, Any]:
    return {
        "session": "default",
        "state": "running",
        "node": "node-1",
        "epoch": 1,
        "runtime": "container",
        "engine": "criu",
        "checkpoint": None,
        "checkpointing": False,
        "message": "",
        "warnings": [],
        "events": [],
        "kernels": {},
        **changes,
    }


# Kernel messages


def v1(channel: str, *parts: Any) -> bytes:
    raw = [
        channel.encode(),
        *(p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts),
    ]
    offsets = [8 * (len(raw) + 2)]
    for part in raw:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(raw)


def v1_parts(payload: bytes) -> tuple[str, list[bytes]]:
    count = int.from_bytes(payload[:8], "little")
    offsets = struct.unpack_from(f"<{count}Q", payload, 8)
    parts = [payload[a:b] for a, b in itertools.pairwise(offsets)]
    return parts[0].decode(), parts[1:]


def header(kind: str, session: str = "kernel") -> dict[str, Any]:
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "session": session,
        "username": "",
        "date": "2026-01-01T00:00:00Z",
        "version": "5.3",
    }


# Handlers that the keeper has in a real gateway


class Base(web.RequestHandler):
    def initialize(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def prepare(self) -> None:
        check_token(self.request, TOKEN)

    def fail(self, status: int, code: str, message: str, hint: str = "") -> None:
        self.set_status(status)
        self.finish({"code": code, "message": message, "hint": hint, "retryable": status == 503})


class Events(websocket.WebSocketHandler, Base):
    def open(self) -> None:
        self.gateway.listeners.add(self)
        self.write_message(json.dumps(self.gateway.status))

    def on_close(self) -> None:
        self.gateway.listeners.discard(self)


class Files(Base):
    """The workspace file API on `gateway.root`."""

    def prepare(self) -> None:
        super().prepare()
        raw = self.request.path.removeprefix("/api/sessionkeeper/files/")
        self.name = os.fsdecode(unquote_to_bytes(raw))
        self.path = self.gateway.root / self.name
        self.op = self.get_query_argument("op", "")
        self.gateway.requests.append(f"{self.request.method} {self.op} {self.name}")
        if not self._finished and self.gateway.busy > 0:
            self.gateway.busy -= 1
            self.set_header("Retry-After", "0.05")
            self.fail(503, "no_compute", "The session is on the move.", "Try again.")

    def answer(self, operation: str, body: Any) -> None:
        if operation in self.gateway.swallow:
            self.gateway.swallow.discard(operation)
            self.detach().close()
        else:
            self.finish(body)

    def stat(self, path: Path) -> dict[str, Any]:
        try:
            info = path.stat()
        except OSError:
            info = path.lstat()
        kind = {stat_module.S_IFDIR: "directory", stat_module.S_IFREG: "file"}
        return {
            "name": path.name,
            "path": str(path.relative_to(self.gateway.root)),
            "type": kind.get(stat_module.S_IFMT(info.st_mode), "symlink-broken"),
            "size": info.st_size,
            "inode": info.st_ino,
            "mtime": info.st_mtime,
            "created": info.st_ctime,
            "writable": os.access(path, os.W_OK),
        }

    async def get(self, _: str) -> None:
        if not os.path.lexists(self.path):
            self.fail(404, "not_found", f"There is no {self.name}.")
        elif self.op == "stat":
            self.finish(self.stat(self.path))
            self.gateway.looked(self.path)
        elif self.op == "list":
            self.finish({"entries": [self.stat(entry) for entry in self.path.iterdir()]})
        else:
            await self.send_bytes()

    async def send_bytes(self) -> None:
        size = self.path.stat().st_size
        start, stop = 0, size
        if asked := self.request.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, size)
            self.set_status(206)
        self.set_header("X-Version", FileVersion.of(self.stat(self.path)).in_header())
        self.set_header("Content-Length", str(stop - start))
        with self.path.open("rb") as file:
            file.seek(start)
            while start < stop:
                chunk = file.read(min(2**20, stop - start))
                start += len(chunk)
                self.write(chunk)
                await self.flush()
                if "GET" in self.gateway.swallow and start >= stop // 2:
                    self.gateway.swallow.discard("GET")
                    self.detach().close()
                    return

    def put(self, _: str) -> None:
        if not self.path.parent.is_dir():
            self.fail(404, "not_found", f"There is no directory {self.path.parent.name}.")
            return
        append = self.get_query_argument("append", "") == "1"
        with self.path.open("ab" if append else "wb") as file:
            file.write(self.request.body)
        self.answer("append" if append else "PUT", self.stat(self.path))

    def post(self, _: str) -> None:
        to = self.gateway.root / self.get_query_argument("to", "-")
        if not self.path.exists() and self.op != "mkdir":
            self.fail(404, "not_found", f"There is no {self.name}.")
            return
        if (self.path if self.op == "mkdir" else to).exists():
            self.fail(409, "exists", f"There is a {self.name if self.op == 'mkdir' else to.name}.")
            return
        if self.op == "mkdir":
            self.path.mkdir()
        elif self.op == "rename":
            self.path.rename(to)
        elif self.path.is_dir():
            self.fail(409, "is_a_directory", f"{self.name}: a directory is not copied")
            return
        else:
            shutil.copy2(self.path, to)
        self.answer(self.op, {})

    def delete(self, _: str) -> None:
        if not os.path.lexists(self.path):
            self.fail(404, "not_found", f"There is no {self.name}.")
        elif not self.path.is_dir():
            self.path.unlink()
            self.answer("DELETE", {})
        elif self.get_query_argument("recursive", "") == "1":
            shutil.rmtree(self.path)
            self.answer("DELETE", {})
        elif any(self.path.iterdir()):
            self.fail(409, "not_empty", f"{self.name} is not empty.")
        else:
            self.path.rmdir()
            self.answer("DELETE", {})


async def until(condition: Any, seconds: float = 20.0) -> Any:
    """Wait for a condition that nothing announces."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)
