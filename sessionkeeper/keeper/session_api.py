"""``/api/sessionkeeper/sessions...``: what an operator does with sessions. JSON, both ways.

A session's token is in the answer to who begins it, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import replace
from typing import Any

from tornado.web import RequestHandler

from sessionkeeper.errors import UsageError
from sessionkeeper.images.registry import pinned
from sessionkeeper.keeper.api import OperatorHandler, Shared
from sessionkeeper.keeper.sessions import report
from sessionkeeper.registration import asked_for


class SessionsHandler(OperatorHandler):
    """All of them; POST begins one, of the name that is asked for or of one that is made up."""

    async def get(self) -> None:
        self.finish({"sessions": await self.shared.sessions.listed()})

    async def post(self) -> None:
        made_up = f"s-{secrets.token_hex(5)}"
        wanted = asked_for(wish(self.request.body), made_up, time.time())
        if wanted.image is not None:
            image = await asyncio.to_thread(pinned, wanted.image, self.shared.images)
            wanted = replace(wanted, image=image)
        kept, token = await self.shared.sessions.create(wanted)
        self.set_status(201)
        self.finish({"session": report(kept), "token": token})


class SessionHandler(OperatorHandler):
    async def get(self, name: str) -> None:
        self.finish(await self.shared.sessions.told(name))

    async def delete(self, name: str) -> None:
        await self.shared.sessions.delete(name)
        self.set_status(204)


class HibernateHandler(OperatorHandler):
    """Its compute is released when this is answered."""

    async def post(self, name: str) -> None:
        kept = await self.shared.sessions.have(name)
        await kept.hibernate()
        self.finish({"session": report(kept)})


class ResumeHandler(OperatorHandler):
    """It is wanted from now on; answered when it runs, or waits for a node."""

    async def post(self, name: str) -> None:
        kept = await self.shared.sessions.have(name)
        kept.keeper.sleep.wake()
        await kept.keeper.awake()
        self.finish({"session": report(kept), "why": kept.keeper.why()})


class TokenHandler(OperatorHandler):
    """One more token; with ``{"alone": true}`` the others are no good any more."""

    async def post(self, name: str) -> None:
        alone = bool(wish(self.request.body).get("alone"))
        self.set_status(201)
        self.finish({"token": await self.shared.sessions.new_token(name, alone=alone)})


def wish(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request. Raises :class:`UsageError`."""
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError("the request is not a JSON object")
    return found


def session_routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    handlers: dict[str, type[RequestHandler]] = {
        "sessions": SessionsHandler,
        "sessions/([^/]+)": SessionHandler,
        "sessions/([^/]+)/hibernate": HibernateHandler,
        "sessions/([^/]+)/resume": ResumeHandler,
        "sessions/([^/]+)/token": TokenHandler,
    }
    return [
        (rf"/api/sessionkeeper/{path}", handler, {"shared": shared})
        for path, handler in handlers.items()
    ]
