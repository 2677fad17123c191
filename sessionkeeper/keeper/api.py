"""``/api/sessionkeeper/...``: status, nodes and workspace files, for the UI server and the
command line.

Errors are JSON: ``{"code", "message", "hint", "retryable"}``, with the status of one table.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from checkpoint.keys import KeyWrapper
from gateway.auth import ErrorsInWords
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.file_version import FileVersion
from sessionkeeper.images.store import ImageStore
from sessionkeeper.keeper.access import Access
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.ledger import Ledger
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.roster import Roster
from sessionkeeper.keeper.sessions import Sessions

STATUS = {
    "not_found": 404,
    "unknown_node": 404,
    "unknown_checkpoint": 404,
    "unknown_tag": 404,
    "unknown_session": 404,
    "session_deleted": 410,
    "session_exists": 409,
    "session_in_use": 409,
    "not_saved": 409,
    "not_hibernated": 409,
    "exists": 409,
    "not_empty": 409,
    "changed": 409,
    "is_a_directory": 409,
    "not_a_directory": 409,
    "refused": 403,
    "node_revoked": 403,
    "join_refused": 403,
    "name_refused": 409,
    "forbidden": 403,
    "unauthorized": 401,
    "full": 507,
    "disk_full": 507,
    "store_full": 507,
    "unavailable": 503,
    "usage": 400,
    "bad_image_name": 400,
    "image_unknown": 404,
    "image_damaged": 409,
    "image_unusable": 409,
    "image_unavailable": 503,
}
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Shared:
    """What the handlers work with."""

    access: Access
    sessions: Sessions
    nodes: Nodes
    masters: Sequence[KeyWrapper] = ()
    """What wraps the keys of sessions that are forked."""
    ledger: Ledger | None = None
    roster: Roster = field(default_factory=Roster)
    """The machines that have joined."""

    images: ImageStore | None = None


LONGEST_DEADLINE = 7 * 86400.0
"""Seconds ahead that a node's end can be told."""


class Handler(ErrorsInWords, RequestHandler):
    """A handler behind the gateway's tokens, whose errors are words."""

    def initialize(self, shared: Shared) -> None:
        self.nodes = shared.nodes
        self.shared = shared

    def check_xsrf_cookie(self) -> None:
        """No cookie gives access here: the token is in a header."""

    def compute_etag(self) -> None:
        """Nobody asks for one."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        code = getattr(error, "code", None) or "error"
        retryable = bool(getattr(error, "retryable", False))
        if not isinstance(error, HTTPError):
            self.set_status(STATUS.get(code, 503 if retryable else 500))
        if self.get_status() == 503:
            self.set_header("Retry-After", "1")
        message = self._reason if isinstance(error, HTTPError) or error is None else str(error)
        self.finish(
            {
                "code": code,
                "message": message,
                "hint": getattr(error, "hint", ""),
                "retryable": retryable,
            }
        )


class SessionHandler(Handler):
    """One that is about the session whose token was sent, or that an operator named."""

    kept: KeptSession

    @property
    def keeper(self) -> SessionKeeper:
        return self.kept.keeper

    async def prepare(self) -> None:
        self.kept = await self.shared.access.session(self.request)


class OperatorHandler(Handler):
    """One for the operator alone."""

    def prepare(self) -> Any:
        self.shared.access.check_operator(self.request)


class StatusHandler(SessionHandler):
    def get(self) -> None:
        self.finish(self.keeper.status.json())


class DrainHandler(OperatorHandler):
    """The preemption notice: the node's sessions move, and nothing new is placed there."""

    async def post(self, name: str) -> None:
        node = self.nodes.get(name)
        try:
            deadline = float(json.loads(self.request.body or b"{}").get("deadline", 30.0))
            if not 0 <= deadline <= LONGEST_DEADLINE:  # nor NaN
                raise ValueError
        except (ValueError, TypeError, AttributeError):
            raise HTTPError(400, reason="deadline must be a number of seconds") from None
        began = time.monotonic()
        self.nodes.drain(node, deadline)
        there = [kept.keeper for kept in self.shared.sessions if kept.keeper.is_on(node)]
        moving = {asyncio.ensure_future(keeper.drain(node)): keeper for keeper in there}
        if moving:
            await asyncio.wait(moving, timeout=deadline)
        lost = {k.session: m.result() or "" for m, k in moving.items() if m.done()}
        left = [keeper for keeper in there if keeper.session not in lost]
        why = (keeper.status.warnings.get("placement", "") for keeper in left)
        self.finish(
            {
                "moved": sorted(lost),
                "left": sorted(keeper.session for keeper in left),
                "lost": "; ".join(filter(None, lost.values())),
                "why": "; ".join(dict.fromkeys(filter(None, why))),
                "seconds": time.monotonic() - began,
            }
        )


class EventsHandler(ErrorsInWords, WebSocketHandler):
    """The status at once, then at each change."""

    def initialize(self, shared: Shared) -> None:
        self._shared = shared
        self._unlisten: Callable[[], None] | None = None

    async def prepare(self) -> None:
        self._status = (await self._shared.access.session(self.request)).keeper.status

    def open(self, *args: str, **kwargs: str) -> Any:
        self.set_nodelay(True)
        self._unlisten = self._status.listen(self._tell)
        self._tell(self._status.json())

    def on_message(self, message: str | bytes) -> None:
        """Nothing is asked over this connection."""

    def on_close(self) -> None:
        if self._unlisten is not None:
            self._unlisten()

    def _tell(self, status: dict[str, Any]) -> None:
        try:
            self.write_message(json.dumps(status))
        except WebSocketClosedError:
            self.on_close()


@stream_request_body
class FilesHandler(SessionHandler):
    """One entry of the workspace."""

    _file: BinaryIO | None = None

    async def prepare(self) -> None:
        await super().prepare()
        self.workspace = self.kept.workspace
        if self.request.method == "PUT":
            self._incoming = self.workspace.journal.incoming()
            self.request.connection.set_max_body_size(1 << 40)  # type: ignore[union-attr]
            self._file = self._incoming.open("xb")

    def data_received(self, chunk: bytes) -> None:
        if self._file is not None:
            self._file.write(chunk)

    def on_finish(self) -> None:
        self._discard()

    def on_connection_close(self) -> None:
        self._discard()
        super().on_connection_close()

    async def get(self, quoted: str) -> None:
        path = _path(self.request)
        operation = self.get_query_argument("op", "")
        if operation == "stat":
            self.finish(_entry(path, await self.workspace.stat(path)))
        elif operation == "list":
            entries = await self.workspace.list(path)
            self.finish({"entries": [_entry(f"{path}/{e['name']}", e) for e in entries]})
        else:
            await self._send(path)

    async def put(self, quoted: str) -> None:
        append = self.get_query_argument("append", "") == "1"
        assert self._file is not None
        self._file.close()
        path = _path(self.request)
        stat = await self.workspace.change(
            "append" if append else "write", path, data=self._incoming
        )
        self.finish(_entry(path, stat))

    async def post(self, quoted: str) -> None:
        path = _path(self.request)
        operation = self.get_query_argument("op", "")
        if operation == "mkdir":
            self.finish(_entry(path, await self.workspace.change("mkdir", path)))
        elif operation in {"rename", "copy"}:
            to = _clean(self.get_query_argument("to", strip=False))
            change: Any = operation
            self.finish(_entry(to, await self.workspace.change(change, path, to=to)))
        else:
            raise HTTPError(400, reason="op must be mkdir, rename or copy")

    async def delete(self, quoted: str) -> None:
        recursive = self.get_query_argument("recursive", "") == "1"
        await self.workspace.change("delete", _path(self.request), recursive=recursive)
        self.set_status(204)

    async def _send(self, path: str) -> None:
        for last in (False, False, True):
            try:
                await self._send_version(path, await self.workspace.stat(path))
            except FileRefused as error:
                if error.code != "changed" or (last and not self._headers_written):
                    raise
                if self._headers_written:
                    # A broken connection is the only way left to say "not all".
                    self.detach().close()
                    return
            else:
                return

    async def _send_version(self, path: str, stat: dict[str, Any]) -> None:
        if stat["type"] == "directory":
            raise FileRefused(f"{path}: is a directory", "is_a_directory")
        version = FileVersion.of(stat)
        start, length = 0, version.size
        wanted = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        if wanted:
            start = min(int(wanted[1]), version.size)
            length = min(int(wanted[2] or version.size - 1) + 1, version.size) - start
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {start}-{start + length - 1}/{version.size}")
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("X-Version", version.in_header())
        try:
            async for piece in self.workspace.read(path, start, length, version):
                self.write(piece)
                await self.flush()
        except StreamClosedError:
            return
        self.finish()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._incoming.unlink(missing_ok=True)


def routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    handlers: dict[str, type[RequestHandler]] = {
        "status": StatusHandler,
        "events": EventsHandler,
        "nodes/([^/]+)/drain": DrainHandler,
        "files/(.*)": FilesHandler,
    }
    return [
        (rf"/api/sessionkeeper/{path}", handler, {"shared": shared})
        for path, handler in handlers.items()
    ]


def _path(request: HTTPServerRequest) -> str:
    quoted = request.path.removeprefix("/api/sessionkeeper/files/")
    return _clean(unquote_to_bytes(quoted).decode(errors="surrogateescape"))


def _clean(path: str) -> str:
    parts = [p for p in path.split("/") if p and p != "."]
    if ".." in parts or "\0" in path:
        raise FileRefused(f"{path}: leads out of the workspace", "refused")
    return "/".join(parts)


def _entry(path: str, stat: dict[str, Any]) -> dict[str, Any]:
    return {**stat, "path": path.strip("/")}
