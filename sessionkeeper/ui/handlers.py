"""The server extension: `/sessionkeeper/status` and `/sessionkeeper/events`.

Both need the UI server's token, and say what `sessionkeeper.ui.status` knows.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.extension.application import ExtensionApp
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler
from traitlets import Unicode

from sessionkeeper.ui.address import gateway_address
from sessionkeeper.ui.channels import ResumingConnection
from sessionkeeper.ui.recorder import Recorder
from sessionkeeper.ui.status import StatusFeed

__all__ = ["FEED", "EventsHandler", "SessionExtension", "StatusHandler"]

FEED = "sessionkeeper_status_feed"
"""The server's setting that has the `StatusFeed`."""

_BEAT_SECONDS = 1.5


class StatusHandler(APIHandler):
    """GET: the session's status as JSON."""

    auth_resource = "kernels"

    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.finish(json.dumps(self.settings[FEED].status))


class EventsHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """WebSocket: the status as one JSON text message, at once and at each change.

    With `beat=` in the URL an empty message comes each `_BEAT_SECONDS`: a page is told of no pings,
    and could not tell that nothing gets through any more.
    """

    auth_resource = "kernels"
    _tasks: Sequence[asyncio.Task[None]] = ()

    def set_default_headers(self) -> None:
        """JupyterHandler's make no sense for a WebSocket."""

    @ws_authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        await super().get(*args, **kwargs)

    async def open(self, *args: str, **kwargs: str) -> None:
        super().open(*args, **kwargs)
        jobs = [self._send()]
        if self.get_query_argument("beat", None) is not None:
            jobs.append(self._beat())
        self._tasks = [asyncio.create_task(job) for job in jobs]

    async def _send(self) -> None:
        with suppress(WebSocketClosedError):
            async for text in self.settings[FEED].subscribe():
                await self.write_message(text)

    async def _beat(self) -> None:
        with suppress(WebSocketClosedError):
            while True:
                await asyncio.sleep(_BEAT_SECONDS)
                await self.write_message("")

    def on_message(self, message: str | bytes) -> None:
        """Nothing is expected from the browser."""

    def on_close(self) -> None:
        for task in self._tasks:
            task.cancel()


class SessionExtension(ExtensionApp):
    """Adds the handlers; feed and recorder run as long as the server does."""

    name = "sessionkeeper"
    outputs_directory = Unicode(config=True, help="Where it is kept how far notebooks have outputs")

    def initialize_settings(self) -> None:
        self.settings[FEED] = StatusFeed(*gateway_address(), self.log)
        contents: Any = self.serverapp and self.serverapp.contents_manager
        directory = Path(self.outputs_directory)
        self._recorder = Recorder(directory, contents.files, contents.notary)
        contents.recorder = ResumingConnection.recorder = self._recorder

    def initialize_handlers(self) -> None:
        self.handlers.extend(
            [
                (r"/sessionkeeper/status", StatusHandler),
                (r"/sessionkeeper/events", EventsHandler),
            ]
        )

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self.settings[FEED].start()
        self._recorder.start()

    async def stop_extension(self) -> None:
        await self.settings[FEED].stop()
        await self._recorder.stop()


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "sessionkeeper.ui.handlers", "app": SessionExtension}]
