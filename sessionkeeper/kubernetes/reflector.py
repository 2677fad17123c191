"""A picture of some of the cluster's objects that is kept up to date: list once, then watch.

A watch goes on from the version that was seen last, which bookmarks keep young. It ends after a
while, by plan; with 410 (Gone) when the server has forgotten that version: then the list is asked
for again, and tells what happened in between. Sources: Kubernetes documentation, "API Concepts",
sections "Efficient detection of changes" and "Watch bookmarks".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from kubernetes.aio.client import ApiException

__all__ = ["LIST_LIMIT", "WATCH_SECONDS", "Gone", "follow", "listed"]

Ask = Callable[[dict[str, str], float], Awaitable[Any]]
"""Asks for a kind of objects with a query, and waits for so many seconds at most."""

WATCH_SECONDS = 120
SLACK_SECONDS = 15
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
LIST_LIMIT = 500
LIST_TIMEOUT = 30.0

Objects = dict[str, dict[str, Any]]


class Gone(Exception):
    """The version to go on from is too old (410)."""


async def follow(ask: Ask) -> AsyncIterator[Objects]:
    """Yield all objects by name: at first, and after each change. Raises what the API answers, and
    what connections raise; whoever calls it again gets the whole picture again.
    """
    version: str | None = None
    objects: Objects = {}
    barren = 0
    while True:
        if version is None:
            objects, version = await listed(ask)
            yield objects
        try:
            barren += 1
            async for kind, one in _events(ask, version):
                barren = 0
                version = str(one["metadata"]["resourceVersion"])
                name = str(one["metadata"].get("name", ""))
                if kind == "DELETED":
                    objects = {other: it for other, it in objects.items() if other != name}
                elif kind in ("ADDED", "MODIFIED"):
                    objects = {**objects, name: one}
                else:  # a bookmark says that nothing has changed
                    continue
                yield objects
        except Gone:
            version = None
        if barren > 1:  # it ends at once, again and again: something is wrong there
            await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**barren))


async def listed(ask: Ask) -> tuple[Objects, str]:
    """Return all objects by name, and the version of the whole, read in pages. A list that takes so
    long that the server forgets where it began (410) is begun again, in one piece.
    """
    more = {"limit": str(LIST_LIMIT)}
    objects: Objects = {}
    while True:
        response = await ask(more, LIST_TIMEOUT)
        try:
            body = json.loads(await response.read())
        finally:
            response.release()
        if response.status == 410 and more:
            objects, more = {}, {}
            continue
        _check(response, body)
        objects |= {str(one["metadata"]["name"]): one for one in body.get("items") or []}
        token = body["metadata"].get("continue")
        if not token:
            return objects, str(body["metadata"]["resourceVersion"])
        more = {"limit": str(LIST_LIMIT), "continue": token}


async def _events(ask: Ask, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(WATCH_SECONDS),
    }
    response = await ask(query, float(WATCH_SECONDS + SLACK_SECONDS))
    try:
        if response.status != 200:
            body = json.loads(await response.read())
            if response.status == 410:
                raise Gone
            _check(response, body)
        while line := await response.content.readline():
            event = json.loads(line)
            kind, one = str(event["type"]), event["object"]
            if kind == "ERROR":
                if one.get("code") == 410:
                    raise Gone
                raise ApiException(status=one.get("code"), reason=one.get("message"))
            yield kind, one
    finally:
        # Closed, not released: what is not read of a watch is no use to the next request.
        response.close()


def _check(response: Any, body: Any) -> None:
    if response.status != 200:
        said = body.get("message") if isinstance(body, dict) else None
        error = ApiException(status=response.status, reason=said or response.reason)
        error.headers = response.headers
        raise error
