"""The session's workspace over the gateway's file API (`/api/sessionkeeper/files/...`).

A session on the move answers 503; so does a gateway that restarts not answer at all. Both are
waited for. An operation whose answer was lost is asked for again, and an answer that says "it
is done already" then counts as done; an append looks at the file's size first, because it is
the only operation that must not be applied twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from sessionkeeper.file_version import FileVersion

__all__ = ["MAX_CONTENT", "PATIENCE", "Stat", "WorkspaceFiles"]

Stat = dict[str, Any]
"""`name, path, type ("file" | "directory" | "symlink-broken"), size, mtime, created, writable`, and
`inode` where it is on a node."""

PATIENCE = 20.0
"""Seconds to wait for a session that moves or a gateway that restarts."""

MAX_CONTENT = 2**30
"""Largest file in bytes that is read or written in one piece; `stream` has no limit."""

_NO_LIMIT = 2**62
_TRANSFER_SECONDS = 600.0


class WorkspaceFiles:
    """A client for one workspace. Paths are relative to it, "" is its root.

    Every call raises `tornado.web.HTTPError` with the gateway's status and words; 404 for a path
    that would leave the workspace, 503 when the gateway was away for `patience` seconds.
    A write that returned was acknowledged by the gateway.
    """

    def __init__(self, gateway_url: str, token: str, *, patience: float = PATIENCE) -> None:
        self._root = f"{gateway_url.rstrip('/')}/api/sessionkeeper/files/"
        self._headers = {"Authorization": f"token {token}"}
        self._patience = patience
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            max_clients=32,
            max_buffer_size=MAX_CONTENT,
            max_body_size=_NO_LIMIT,
        )

    async def stat(self, path: str) -> Stat | None:
        """What is at `path`, None if there is nothing."""
        try:
            return self._stat(await self._request("GET", path, "op=stat"))
        except web.HTTPError as error:
            if error.status_code == 404:
                return None
            raise

    async def list(self, path: str) -> list[Stat]:
        """What is in the directory `path`, in no particular order."""
        response = await self._request("GET", path, "op=list")
        entries: list[Stat] = json.loads(response.body)["entries"]
        return entries

    async def read(self, path: str) -> bytes:
        """The whole file. Raises 413 when it is larger than `MAX_CONTENT`."""
        stat = await self.stat(path)
        if stat is not None and (stat["size"] or 0) > MAX_CONTENT:
            raise web.HTTPError(
                413, f"{path} is too large to open in the browser; download it instead"
            )
        return (await self._request("GET", path)).body

    async def stream(
        self,
        path: str,
        start: int,
        stop: int,
        version: FileVersion,
        sink: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Give bytes `start` to `stop` (exclusive) of a file, as `version` has them, to `sink`, at
        the pace it takes them.

        Goes on where it was when the connection breaks. Raises 409 when the file is another one by
        now, before or after some of it was given.
        """
        position, changed = start, False
        deadline = time.monotonic() + self._patience

        async def take(head: HTTPHeaders, chunk: bytes) -> None:
            nonlocal position, changed
            changed = not version.is_in(FileVersion.from_header(head["X-Version"]))
            if changed:
                raise OSError("this is another file")  # the rest is not wanted
            position += len(chunk)
            await sink(chunk)

        while position < stop:
            before = position
            wanted = {"Range": f"bytes={position}-{stop - 1}"}
            try:
                await self._request("GET", path, headers=wanted, sink=take)
            except (OSError, HTTPClientError) as error:  # broken off in the middle
                if changed:
                    raise web.HTTPError(409, f"{path} changed while it was downloaded") from error
                if position == before and time.monotonic() > deadline:
                    raise _away(error) from error
            else:
                if position < stop:
                    raise web.HTTPError(409, f"{path} became shorter while it was downloaded")
            if position > before:
                deadline = time.monotonic() + self._patience

    async def write(self, path: str, content: bytes) -> Stat:
        """Create or replace the file, as a whole or not at all. Its directory must exist."""
        return self._stat(await self._request("PUT", path, body=content))

    async def append(self, path: str, content: bytes) -> Stat:
        """Add to the end of the file, once."""
        before = await self.stat(path)
        size = before["size"] if before else 0

        async def is_done() -> bool:
            now = await self.stat(path)
            return now is not None and now["size"] == size + len(content)

        response = await self._request("PUT", path, "append=1", body=content, is_done=is_done)
        return self._stat(response)

    async def mkdir(self, path: str) -> None:
        """Create a directory. Raises 409 if there is something."""
        await self._request("POST", path, "op=mkdir", body=b"", done_already=409)

    async def rename(self, path: str, to: str) -> None:
        """Move a file or directory. Raises 409 if `to` exists."""
        query = f"op=rename&to={_quote(to)}"
        await self._request("POST", path, query, body=b"", done_already=404)

    async def copy(self, path: str, to: str) -> None:
        """Copy a file. Raises 409 if `to` exists."""
        await self._request("POST", path, f"op=copy&to={_quote(to)}", body=b"", done_already=409)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file or directory. Raises 409 for a directory that is not empty."""
        query = "recursive=1" if recursive else ""
        await self._request("DELETE", path, query, done_already=404)

    @staticmethod
    def _stat(response: HTTPResponse) -> Stat:
        stat: Stat = json.loads(response.body)
        return stat

    async def _request(
        self,
        method: str,
        path: str,
        query: str = "",
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        sink: Callable[[HTTPHeaders, bytes], Awaitable[None]] | None = None,
        done_already: int | None = None,
        is_done: Callable[[], Awaitable[bool]] | None = None,
    ) -> HTTPResponse:
        """The answer to a request, once there is one that is not "not now".

        `done_already`: the status that says so when an earlier try got through after all.
        """
        url = self._root + _quote(path) + (f"?{query}" if query else "")
        deadline = time.monotonic() + self._patience
        unanswered = False
        while True:
            body_of = _Body(sink)
            request = HTTPRequest(
                url,
                method,
                headers={**self._headers, **(headers or {})},
                body=body,
                header_callback=body_of.header_line if sink else None,
                streaming_callback=body_of.chunk if sink else None,
                connect_timeout=5.0,
                request_timeout=_TRANSFER_SECONDS,
                decompress_response=False,
            )
            try:
                response = await self._client.fetch(request, raise_error=False)
            except ConnectionRefusedError as error:
                pause, reason = 0.1, _away(error)
            except (OSError, HTTPClientError) as error:
                if sink is not None:
                    raise
                unanswered = True
                pause, reason = 0.1, _away(error)
            else:
                if response.code < 400:
                    return response
                if unanswered and response.code == done_already:
                    return response
                reason = _refused(path, response, bytes(body_of.refusal) if sink else response.body)
                if response.code != 503:
                    raise reason
                pause = _retry_after(response)
            if time.monotonic() + pause > deadline:
                raise reason
            await asyncio.sleep(pause)
            if unanswered and is_done is not None and await is_done():
                return await self._request("GET", path, "op=stat")


class _Body:
    """Sends the body of a success on, and keeps that of a refusal."""

    def __init__(self, sink: Callable[[HTTPHeaders, bytes], Awaitable[None]] | None) -> None:
        self._sink = sink
        self._status = 0
        self._headers = HTTPHeaders()
        self.refusal = bytearray()

    def header_line(self, line: str) -> None:
        if line.startswith("HTTP/"):
            self._status = int(line.split()[1])
        elif line.strip():
            self._headers.parse_line(line)

    async def chunk(self, chunk: bytes) -> None:
        if self._status < 400 and self._sink is not None:
            await self._sink(self._headers, chunk)
        else:
            self.refusal += chunk


def _quote(path: str) -> str:
    path = path.strip("/")
    if ".." in path.split("/") or "\0" in path:
        raise web.HTTPError(404, f"{path!r} is outside of the workspace")
    return quote(path, errors="surrogateescape")


def _retry_after(response: HTTPResponse) -> float:
    try:
        return min(max(float(response.headers["Retry-After"]), 0.05), 1.0)
    except (KeyError, ValueError):
        return 0.2


def _away(error: Exception) -> web.HTTPError:
    return web.HTTPError(
        503,
        f"The session's gateway does not answer ({error}). Nothing was lost: "
        "what you see in this tab is still here; save again in a moment.",
    )


def _refused(path: str, response: HTTPResponse, body: bytes) -> web.HTTPError:
    message, hint = f"{response.code} {response.reason}", ""
    try:
        answer = json.loads(body)
        message, hint = answer.get("message") or message, answer.get("hint") or ""
    except (ValueError, AttributeError):
        pass
    if path not in message:
        message = f"{path}: {message}"
    text = message + (f" ({hint})" if hint else "")
    return web.HTTPError(response.code, text)
