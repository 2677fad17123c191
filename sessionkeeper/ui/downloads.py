"""`/files/<path>`: a workspace file as it is, streamed, of any size, with ranges."""

# mypy: allow-untyped-calls

from __future__ import annotations

import mimetypes
import re
from email.utils import formatdate
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from tornado import iostream, web

from sessionkeeper.file_version import FileVersion

__all__ = ["WorkspaceFilesHandler"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class WorkspaceFilesHandler(JupyterHandler):
    """Serves what the contents manager's workspace has. Hidden files only if it allows them."""

    auth_resource = "contents"

    def initialize(self, **_: Any) -> None:
        """jupyter_server passes `path`, a local directory; there is none."""

    @property
    def content_security_policy(self) -> str:
        # Scripts in a user's HTML must not reach the server with the user's cookies.
        return super().content_security_policy + "; sandbox allow-scripts"

    @web.authenticated
    @authorized
    async def head(self, path: str) -> None:
        await self._serve(path, with_body=False)

    @web.authenticated
    @authorized
    async def get(self, path: str) -> None:
        await self._serve(path, with_body=True)

    async def _serve(self, path: str, *, with_body: bool) -> None:
        self.check_xsrf_cookie()
        contents: Any = self.contents_manager
        path = path.strip("/")
        hidden = not contents.allow_hidden and await contents.is_hidden(path)
        name = path.rpartition("/")[2]
        if self.get_argument("download", None):
            self.set_attachment_header(name)
        self.set_header("Content-Type", _content_type(name))
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Accept-Ranges", "bytes")
        for last in (False, False, True):
            stat = None if hidden else await contents.files.stat(path)
            if stat is None:
                raise web.HTTPError(404, f"No such file: {path}")
            if stat["type"] != "file":
                raise web.HTTPError(400, f"{path} is a {stat['type']}, not a file")
            version = FileVersion.of(stat)
            start, stop = self._range(version.size)
            self.set_header("Last-Modified", formatdate(version.mtime, usegmt=True))
            self.set_header("Content-Length", str(stop - start))
            if not with_body:
                self.finish()
                return
            try:
                await contents.files.stream(path, start, stop, version, self._send)
            except iostream.StreamClosedError:
                return  # the browser went away
            except web.HTTPError as error:
                if self._headers_written:
                    # Half of it is out. A broken connection is the only way left to say "not all".
                    self.log.warning("Download of %s broken off", path, exc_info=True)
                    self.detach().close()
                    return
                if error.status_code != 409 or last:
                    raise
                continue  # it was replaced since we looked
            self.finish()
            return

    async def _send(self, chunk: bytes) -> None:
        self.write(chunk)
        await self.flush()

    def _range(self, size: int) -> tuple[int, int]:
        """First byte and the one after the last that were asked for; sets the status."""
        asked = _RANGE.match(self.request.headers.get("Range", ""))
        if asked is None or asked.group(0) == "bytes=-":
            return 0, size
        first, last = asked.groups()
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size or stop <= start:
            self.set_header("Content-Range", f"bytes */{size}")
            raise web.HTTPError(416, f"The file has {size} bytes")
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        return start, stop


def _content_type(name: str) -> str:
    if name.lower().endswith(".ipynb"):
        return "application/x-ipynb+json"
    kind, encoding = mimetypes.guess_type(name)
    if encoding == "gzip":
        return "application/gzip"  # RFC 6713
    if encoding is not None or kind is None:
        return "application/octet-stream"
    return "text/plain; charset=UTF-8" if kind == "text/plain" else kind
