"""BinderHub's HTTP API and pages at the gateway: clients of a Binder work unchanged.

Who may build is decided as everywhere: by the operator's token, in the query, as a browser's
EventSource sends no headers, or in a header. With `--binder open` nobody needs one; only
directories of this machine do. The pages themselves hold no secret.

Source: BinderHub's `doc/source/developer/api.md`, `builder.py` and `main.py`; the EventSource
format of the HTML standard, 9.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from gateway.auth import ErrorsInWords
from sessionkeeper.launch import pages
from sessionkeeper.launch.build import can_build
from sessionkeeper.launch.errors import SourceUnknown
from sessionkeeper.launch.events import Event
from sessionkeeper.launch.launches import Launches, Wish
from sessionkeeper.launch.sources import LOCAL, PROVIDERS, of_provider

KEEP_ALIVE = 25.0
"""Seconds of silence after which a comment is sent, so that no proxy gives the connection up."""

STAYS_OPEN = 60.0
"""Seconds after the last event in which the client may close the connection: one that does not, and
is closed, begins anew (EventSource reconnects)."""


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?")


@dataclass(frozen=True)
class Binder:
    """What the handlers work with. ``check`` raises unless a request is the operator's."""

    launches: Launches
    check: Callable[[HTTPServerRequest], None]
    has_nodes: Callable[[], bool]
    open: bool = False


class BinderHandler(ErrorsInWords, RequestHandler):
    def initialize(self, binder: Binder) -> None:
        self.binder = binder

    def set_default_headers(self) -> None:
        # Pages elsewhere launch here; no cookie means anything.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Headers", "cache-control, authorization")

    def check_xsrf_cookie(self) -> None:
        """No cookie gives access here."""

    def options(self, *_: str) -> None:
        self.set_status(204)

    def show(self, page: str) -> None:
        """Answer with a page, which loads nothing from anywhere and is in no other's frame."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", pages.POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(page)

    def flag(self, name: str) -> bool:
        return self.get_query_argument(name, "").lower() == "true"


class BuildHandler(BinderHandler):
    """``GET /build/PROVIDER/SPEC``: phases as an event stream, until `ready` or `failed`."""

    def prepare(self) -> None:
        self._gone = asyncio.Event()
        accepted = {one.partition(";")[0].strip() for one in self._accept().split(",")}
        if "text/event-stream" not in accepted:
            raise HTTPError(400, "Missing Accept header: text/event-stream")
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")

    def _accept(self) -> str:
        return self.request.headers.get("Accept", "").lower()

    async def get(self, provider: str, _: str) -> None:
        # As it was sent: `%2F` within a part is no end of it.
        spec = self.request.path.split(f"/build/{provider}/", 1)[1]
        if not self.binder.open or provider == LOCAL:
            self.binder.check(self.request)
        host = f"{self.request.protocol}://{self.request.host}/"
        try:
            source = of_provider(provider, spec)
        except SourceUnknown as error:
            await self._send(Event("failed", f"{error}\n{error.hint}\n"))
            return
        more = {
            "binder_launch_host": host,
            "binder_request": source.request,
            "binder_client_ip": self.request.remote_ip,
        }
        name = self.get_query_argument("session", None)
        flags = self.flag("build_only"), self.flag("rebuild")
        wish = Wish(*flags, name, self._origin(host), more)
        events = self.binder.launches.launch(source, wish)
        alive = asyncio.create_task(self._keep_alive())
        try:
            async with contextlib.aclosing(events) as said:
                async for event in said:
                    await self._send(event)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), STAYS_OPEN)
        except StreamClosedError:
            return
        finally:
            alive.cancel()

    def _origin(self, host: str) -> str | None:
        origin = self.request.headers.get("Origin", "")
        return origin if _ORIGIN.fullmatch(origin) and f"{origin}/" != host else None

    async def _send(self, event: Event) -> None:
        self.write(f"data: {event.json()}\n\n")
        await self.flush()

    async def _keep_alive(self) -> None:
        with contextlib.suppress(StreamClosedError):
            while True:
                await asyncio.sleep(KEEP_ALIVE)
                self.write(":keepalive\n\n")
                await self.flush()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone.set()


class PageHandler(BinderHandler):
    """``/``: what to launch."""

    def get(self) -> None:
        self.show(pages.FRONT)


class LaunchPageHandler(BinderHandler):
    """``/v2/PROVIDER/SPEC``: launches it, shows the build's log, and goes to the session."""

    def get(self, provider: str, _: str) -> None:
        if provider not in PROVIDERS:
            raise HTTPError(404, f"there is no provider {provider!r}")
        self.show(pages.LOADING)


class VersionsHandler(BinderHandler):
    """``/versions``: what builds here."""

    def get(self) -> None:
        try:
            builder = f"jupyter-repo2docker=={version('jupyter-repo2docker')}"
        except PackageNotFoundError:
            builder = ""
        own = version("sessionkeeper")
        info = {"build_image": builder}
        self.finish({"builder_info": info, "builder": builder, "binderhub": f"sessionkeeper {own}"})


class HealthHandler(BinderHandler):
    """``/health``: whether something can be built."""

    async def get(self) -> None:
        checks = [
            {"service": "container engine", "ok": await asyncio.to_thread(can_build)},
            {"service": "nodes", "ok": self.binder.has_nodes()},
        ]
        well = all(one["ok"] for one in checks)
        self.set_status(200 if well else 503)
        self.finish(json.dumps({"ok": well, "checks": checks}))

    async def head(self) -> None:
        await self.get()


class ProvidersHandler(BinderHandler):
    """``/api/repoproviders``: what a spec can begin with."""

    def get(self) -> None:
        said = [{"id": one, "displayName": name} for one, name in PROVIDERS.items() if one != LOCAL]
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(said))


class BadgeHandler(BinderHandler):
    """``/badge.svg``, ``/badge_logo.svg``."""

    def get(self) -> None:
        self.set_header("Content-Type", "image/svg+xml")
        self.finish(pages.BADGE)


def binder_routes(binder: Binder) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    handlers: dict[str, type[RequestHandler]] = {
        r"/": PageHandler,
        r"/build/([^/]+)/(.+)": BuildHandler,
        r"/v2/([^/]+)/(.+)": LaunchPageHandler,
        r"/versions": VersionsHandler,
        r"/health": HealthHandler,
        r"/api/repoproviders": ProvidersHandler,
        r"/badge(?:_logo)?\.svg": BadgeHandler,
    }
    return [(path, handler, {"binder": binder}) for path, handler in handlers.items()]
