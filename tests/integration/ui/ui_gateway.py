"""A gateway as the UI server sees one: the workspace file API on a real directory, kernels that
answer, the resumable WebSocket and the status events, over a socket. It can go away and come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import stat as stat_module
import struct
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from tornado import httpserver, netutil, web, websocket

TOKEN = "gateway-token"


class Gateway:
    """Everything it knows outlives `stop`, as a gateway's journal does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.requests: list[str] = []
        self.busy = 0  # that many file requests are answered 503
        self.swallow: set[str] = set()  # file operations that are done, and not answered
        self.status: dict[str, Any] = status()
        self.kernels: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.journals: dict[str, list[bytes]] = {}
        self.applied: list[bytes] = []  # requests, each once
        self._applied_ids: set[str] = set()
        self.sockets: set[Any] = set()
        self.server: httpserver.HTTPServer | None = None

    async def start(self) -> None:
        routes = [
            (r"/api/sessionkeeper/files/(.*)", Files),
            (r"/api/sessionkeeper/events", Events),
            (r"/api/kernelspecs", Specs),
            (r"/api/kernels", Kernels),
            (r"/api/sessions", Sessions),
            (r"/api/sessions/([\w-]+)", Session),
            (r"/api/kernels/([\w-]+)", Kernel),
            (r"/api/kernels/([\w-]+)/channels", Channels),
        ]
        app = web.Application(
            routes, gateway=self, websocket_max_message_size=2**30, log_function=lambda _: None
        )
        self.server = httpserver.HTTPServer(app, max_body_size=2**30, max_buffer_size=2**31)
        sockets = netutil.bind_sockets(self.port, "127.0.0.1", reuse_port=False)
        self.port = sockets[0].getsockname()[1]
        self.server.add_sockets(sockets)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.stop()
        for socket in list(self.sockets):
            socket.ws_connection.stream.close()
        self.sockets.clear()
        await self.server.close_all_connections()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, **changes: Any) -> None:
        self.status = {**self.status, **changes}
        for socket in self.sockets:
            if isinstance(socket, Events):
                socket.write_message(json.dumps(self.status))

    def start_kernel(self) -> dict[str, Any]:
        kernel_id = str(uuid.uuid4())
        self.journals[kernel_id] = []
        self.kernels[kernel_id] = {
            "id": kernel_id,
            "name": "python3",
            "last_activity": "2026-01-01T00:00:00.000000Z",
            "execution_state": "idle",
            "connections": 0,
        }
        return self.kernels[kernel_id]

    def output(self, kernel_id: str, message: bytes) -> None:
        self.journals[kernel_id].append(message)
        for socket in self.sockets:
            if isinstance(socket, Channels) and socket.kernel_id == kernel_id:
                socket.flush_journal()

    def apply(self, kernel_id: str, payload: bytes) -> None:
        channel, parts = v1_parts(payload)
        header = json.loads(parts[0])
        if header["msg_id"] in self._applied_ids:
            return
        self._applied_ids.add(header["msg_id"])
        self.applied.append(payload)
        content = json.loads(parts[3])
        for answer in answers(channel, header, content):
            self.output(kernel_id, answer)


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


def header(kind: str) -> dict[str, Any]:
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "session": "kernel",
        "username": "",
        "date": "2026-01-01T00:00:00Z",
        "version": "5.3",
    }


def answers(channel: str, parent: dict[str, Any], content: dict[str, Any]) -> list[bytes]:
    """What a kernel says: `print` of the code for an execute request."""

    def message(channel: str, kind: str, body: dict[str, Any]) -> bytes:
        return v1(channel, header(kind), parent, {}, body)

    kind = parent["msg_type"]
    said = [message("iopub", "status", {"execution_state": "busy"})]
    if kind == "execute_request":
        code = content["code"]
        text = "x" * int(code[4:]) if code.startswith("big ") else code
        said.append(message("iopub", "stream", {"name": "stdout", "text": text}))
        reply = {"status": "ok", "execution_count": 1, "user_expressions": {}, "payload": []}
        said.append(message(channel, "execute_reply", reply))
    elif kind == "kernel_info_request":
        language = {"name": "python", "version": "3", "mimetype": "text/x-python"}
        reply = {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "fake",
            "implementation_version": "1",
            "language_info": {**language, "file_extension": ".py"},
            "banner": "",
            "help_links": [],
        }
        said.append(message(channel, "kernel_info_reply", reply))
    elif kind == "comm_info_request":
        said.append(message(channel, "comm_info_reply", {"status": "ok", "comms": {}}))
    said.append(message("iopub", "status", {"execution_state": "idle"}))
    return said


# Handlers


class Base(web.RequestHandler):
    @property
    def gateway(self) -> Gateway:
        return self.settings["gateway"]

    def prepare(self) -> None:
        if self.request.headers.get("Authorization") != f"token {TOKEN}":
            self.fail(403, "forbidden", "Token missing or wrong.")

    def fail(self, status: int, code: str, message: str, hint: str = "") -> None:
        self.set_status(status)
        self.finish({"code": code, "message": message, "hint": hint, "retryable": status == 503})


class Specs(Base):
    def get(self) -> None:
        spec = {"argv": [], "language": "python", "display_name": "Python 3", "env": {}}
        specs = {"python3": {"name": "python3", "spec": spec, "resources": {}}}
        self.finish({"default": "python3", "kernelspecs": specs})


class Kernels(Base):
    def get(self) -> None:
        self.finish(json.dumps(list(self.gateway.kernels.values())))

    def post(self) -> None:
        self.gateway.requests.append(f"POST kernels {self.request.body.decode()}")
        self.set_status(201)
        self.finish(self.gateway.start_kernel())


class Kernel(Base):
    def get(self, kernel_id: str) -> None:
        if kernel_id in self.gateway.kernels:
            self.finish(self.gateway.kernels[kernel_id])
        else:
            self.fail(404, "kernel_not_found", f"There is no kernel {kernel_id}.")

    def delete(self, kernel_id: str) -> None:
        self.gateway.requests.append(f"DELETE kernel {kernel_id}")
        self.gateway.kernels.pop(kernel_id, None)
        self.set_status(204)


class Sessions(Base):
    """As `gateway.handlers` does it."""

    def model(self, session: dict[str, Any]) -> dict[str, Any]:
        return {**session, "kernel": self.gateway.kernels[session["kernel"]]}

    def get(self) -> None:
        there = [s for s in self.gateway.sessions.values() if s["kernel"] in self.gateway.kernels]
        self.finish(json.dumps([self.model(session) for session in there]))

    def post(self) -> None:
        self.gateway.requests.append(f"POST sessions {self.request.body.decode()}")
        wish = json.loads(self.request.body)
        if wish["kernel"].get("name", "python3") != "python3":
            self.fail(404, "kernelspec_not_found", f"There is no {wish['kernel']['name']}.")
            return
        kernel = wish["kernel"].get("id") or self.gateway.start_kernel()["id"]
        session = {"id": str(uuid.uuid4()), **wish, "kernel": kernel}
        self.gateway.sessions[session["id"]] = session
        self.set_status(201)
        self.finish(self.model(session))


class Session(Sessions):
    def get(self, session_id: str) -> None:
        self.finish(self.model(self.gateway.sessions[session_id]))

    def patch(self, session_id: str) -> None:
        session = self.gateway.sessions[session_id]
        wish = json.loads(self.request.body)
        if "kernel" in wish:
            wish["kernel"] = wish["kernel"]["id"]
        session.update(wish)
        self.finish(self.model(session))

    def delete(self, session_id: str) -> None:
        session = self.gateway.sessions.pop(session_id)
        self.gateway.kernels.pop(session["kernel"], None)
        self.set_status(204)


class Events(websocket.WebSocketHandler, Base):
    def open(self) -> None:
        self.gateway.sockets.add(self)
        self.write_message(json.dumps(self.gateway.status))

    def on_close(self) -> None:
        self.gateway.sockets.discard(self)


class Channels(websocket.WebSocketHandler, Base):
    """docs/link-protocol.md, section 1."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "v1.sessionkeeper" if "v1.sessionkeeper" in subprotocols else None

    def open(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        if kernel_id not in self.gateway.kernels:
            self.close(4404, "no such kernel")
            return
        newest = len(self.gateway.journals[kernel_id])
        cursor = self.get_query_argument("cursor", None)
        self.cursor = newest if cursor is None else int(cursor)
        welcome = {"event": "welcome", "version": [1, 0], "kernel_id": kernel_id, "journal": "j1"}
        welcome |= {"cursor": self.cursor, "newest": newest, "missing": 0, "reset": False}
        self.write_message(b"\x03" + json.dumps(welcome).encode(), binary=True)
        self.gateway.sockets.add(self)
        self.flush_journal()

    def flush_journal(self) -> None:
        for message in self.gateway.journals[self.kernel_id][self.cursor :]:
            self.cursor += 1
            self.write_message(struct.pack(">BQ", 1, self.cursor) + message, binary=True)

    def on_message(self, frame: bytes) -> None:
        kind, number = struct.unpack_from(">BQ", frame)
        if kind == 1:
            self.gateway.apply(self.kernel_id, frame[9:])
            with contextlib.suppress(websocket.WebSocketClosedError):
                self.write_message(struct.pack(">BQ", 2, number), binary=True)

    def on_close(self) -> None:
        self.gateway.sockets.discard(self)


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
            "mtime": info.st_mtime,
            "created": info.st_ctime,
            "writable": os.access(path, os.W_OK),
        }

    async def get(self, _: str) -> None:
        if not os.path.lexists(self.path):
            self.fail(404, "not_found", f"There is no {self.name}.")
        elif self.op == "stat":
            self.finish(self.stat(self.path))
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
        self.set_header("X-Mtime", repr(self.path.stat().st_mtime))
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
            shutil.copytree(self.path, to)
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
