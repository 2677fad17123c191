"""An API server over HTTP that behaves as the real one where the backend can notice.

Modelled: one resource version for everything; lists with label and field selectors, in pages;
watches from a version on, with bookmarks and `timeoutSeconds`; 410 for a version that was
compacted away, as an event or as a status; 409 for a name that is taken and for a `PUT` of an old
version; uids; deletion with grace, which can be shortened, of a pod that has a node, and at once of
one that has none; evictions; dependents that go with their owner; answers with 429 and
`Retry-After`, with 5xx, with none at all; a restart, which cuts all connections.

Not modelled: authentication and RBAC, admission (quotas, Pod Security), validation of objects (the
tests of objects do that), defaulting of fields, patches, finalizers, disruption budgets, priorities
and preemption, resources of nodes, networks, images. The garbage collector and the scheduler are
at once; in a cluster they take a moment.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

PATIENCE = 30.0
Object = dict[str, Any]
KINDS = {"pods": "Pod", "nodes": "Node", "daemonsets": "DaemonSet", "statefulsets": "StatefulSet"}


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }


class ApiServer:
    """`broken`: (status, headers) with which the next requests are answered, but for watches'
    bodies; status 0 cuts the connection after the request was *done*, 1 before.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self.version = 1000
        self.compacted = 1000
        self.history: list[tuple[int, str, str, Object]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.broken: deque[tuple[int, dict[str, str]]] = deque()
        self.gone_as_status = False
        self.bookmarks = 0
        self.page = 500
        self.minor = "36"
        self.changed = asyncio.Condition()
        self.port = 0
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._life = 0

    # -- what tests and the cluster's own controllers do ----------------------------------------

    async def create(self, plural: str, one: Object) -> Object:
        meta = one.setdefault("metadata", {})
        if meta["name"] in self.objects[plural]:
            raise Refused(409, "AlreadyExists", f'{plural} "{meta["name"]}" already exists')
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
        one.setdefault("status", {"phase": "Pending"} if plural == "pods" else {})
        return await self._store(plural, "ADDED", one)

    async def update(self, plural: str, name: str, change: Callable[[Object], Any]) -> Object:
        one = deepcopy(self.objects[plural][name])
        change(one)
        return await self._store(plural, "MODIFIED", one)

    async def remove(self, plural: str, name: str) -> None:
        """It is gone, and what it owned goes."""
        one = self.objects[plural].pop(name, None)
        if one is None:
            return
        await self._store(plural, "DELETED", one)
        uid = one["metadata"]["uid"]
        for kind, others in self.objects.items():
            for other in list(others.values()):
                owners = other["metadata"].get("ownerReferences") or []
                if any(owner["uid"] == uid for owner in owners):
                    await self.delete(kind, other["metadata"]["name"])

    async def delete(
        self, plural: str, name: str, grace: int | None = None, reason: str | None = None
    ) -> Object:
        one = self.objects[plural].get(name)
        if one is None:
            raise Refused(404, "NotFound", f'{plural} "{name}" not found')
        seconds = grace
        if seconds is None:
            seconds = one.get("spec", {}).get("terminationGracePeriodSeconds", 30)
        over = one.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if plural != "pods" or not one["spec"].get("nodeName") or over or seconds == 0:
            await self.remove(plural, name)
            return one
        before = one["metadata"].get("deletionGracePeriodSeconds")
        if before is not None and before <= seconds:
            return one

        def ending(pod: Object) -> None:
            when = datetime.now(UTC) + timedelta(seconds=seconds)
            pod["metadata"]["deletionTimestamp"] = when.strftime("%Y-%m-%dT%H:%M:%SZ")
            pod["metadata"]["deletionGracePeriodSeconds"] = seconds
            if reason:
                condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
                pod["status"].setdefault("conditions", []).append(condition)

        return await self.update(plural, name, ending)

    async def compact(self) -> None:
        """Forget what has happened so far; who watches from before is told (410)."""
        async with self.changed:
            self.compacted = self.version
            self.history.clear()
            self.changed.notify_all()

    async def bookmark(self) -> None:
        """Tell all that watch the version of now."""
        async with self.changed:
            self.bookmarks += 1
            self.changed.notify_all()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: bool(condition()))

    def asked(self, method: str, end: str, **query: str) -> int:
        """How many such requests there were."""
        return sum(
            m == method and path.endswith(end) and query.items() <= given.items()
            for m, path, given in self.requests
        )

    async def _store(self, plural: str, word: str, one: Object) -> Object:
        async with self.changed:
            self.version += 1
            one = deepcopy(one)
            one["metadata"]["resourceVersion"] = str(self.version)
            if word != "DELETED":
                self.objects[plural][one["metadata"]["name"]] = one
            self.history.append((self.version, plural, word, one))
            self.changed.notify_all()
        return deepcopy(one)

    # -- HTTP ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[ApiServer]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.0, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """As when its machine is rebooted: connections are cut. What was stored stays."""
        self._life += 1
        async with self.changed:
            self.changed.notify_all()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append((request.method, request.path, query))
        async with self.changed:
            self.changed.notify_all()
        status, headers = self.broken.popleft() if self.broken else (200, {})
        if status == 1:
            return _cut(request)
        if status not in (0, 200):
            said = Refused(status, "Broken", f"as asked: {status}").status
            return web.json_response(said, status=status, headers=headers)
        try:
            answer = await self._do(request, query)
        except Refused as refused:
            answer = web.json_response(refused.status, status=refused.status["code"])
        return _cut(request) if status == 0 else answer

    async def _do(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        words = request.path.strip("/").split("/")
        if words == ["version"]:
            said = {"major": "1", "minor": self.minor, "gitVersion": f"v1.{self.minor}.0"}
            empty = dict.fromkeys(
                ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"), ""
            )
            return web.json_response({**said, **empty})
        words = words[2:] if words[0] == "api" else words[3:]
        if words[0] == "namespaces":
            words = words[2:]
        plural, *rest = words
        match request.method, rest:
            case "GET", [] if query.get("watch", "").lower() == "true":
                return await self._watch(request, plural, query)
            case "GET", []:
                return web.json_response(self._list(plural, query))
            case "GET", [name]:
                return web.json_response(self._one(plural, name))
            case "POST", []:
                one = await self.create(plural, await request.json())
                return web.json_response(one, status=201)
            case "POST", [name, "eviction"]:
                self._one(plural, name)
                said = (await request.json()).get("deleteOptions") or {}
                grace = said.get("gracePeriodSeconds")
                await self.delete(plural, name, grace, "EvictionByEvictionAPI")
                return web.json_response({"kind": "Status", "status": "Success"}, status=201)
            case "PUT", [name]:
                return web.json_response(await self._put(plural, name, await request.json()))
            case "DELETE", [name]:
                given = query.get("gracePeriodSeconds")
                if given is None and request.can_read_body:
                    given = (json.loads(await request.read() or b"{}") or {}).get(
                        "gracePeriodSeconds"
                    )
                grace = None if given is None else int(given)
                return web.json_response(await self.delete(plural, name, grace))
        raise Refused(404, "NotFound", f"{request.method} {request.path}")

    def _one(self, plural: str, name: str) -> Object:
        try:
            return self.objects[plural][name]
        except KeyError:
            raise Refused(404, "NotFound", f'{plural} "{name}" not found') from None

    async def _put(self, plural: str, name: str, new: Object) -> Object:
        old = self._one(plural, name)["metadata"]
        given = new["metadata"].get("resourceVersion")
        if given and given != old["resourceVersion"]:
            raise Refused(409, "Conflict", "the object has been modified")
        new["metadata"] |= {"uid": old["uid"], "creationTimestamp": old["creationTimestamp"]}
        return await self._store(plural, "MODIFIED", new)

    def _list(self, plural: str, query: dict[str, str]) -> Object:
        found = [one for _, one in sorted(self.objects[plural].items()) if _selected(one, query)]
        version, after = self.version, 0
        if "continue" in query:
            begun, after = map(int, query["continue"].split("-"))
            if begun < self.compacted:
                raise Refused(410, "Expired", "the continue token is too old")
            version = begun
        limit = min(int(query.get("limit") or len(found) or 1), self.page)
        meta = {"resourceVersion": str(version)}
        if after + limit < len(found):
            meta["continue"] = f"{version}-{after + limit}"
        kind = f"{KINDS[plural]}List"
        return {"kind": kind, "metadata": meta, "items": found[after : after + limit]}

    async def _watch(
        self, request: web.Request, plural: str, query: dict[str, str]
    ) -> web.StreamResponse:
        version, life, bookmarks = int(query["resourceVersion"]), self._life, self.bookmarks
        if version < self.compacted and self.gone_as_status:
            raise Refused(410, "Expired", f"too old resource version: {version}")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)

        async def say(kind: str, one: Object) -> None:
            await response.write(json.dumps({"type": kind, "object": one}).encode() + b"\n")

        try:
            async with asyncio.timeout(float(query.get("timeoutSeconds", 1800))):
                while self._life == life:
                    if version < self.compacted:
                        said = Refused(410, "Expired", f"too old resource version: {version}")
                        await say("ERROR", said.status)
                        break
                    new = [event for event in self.history if event[0] > version]
                    for number, kind, word, one in new:
                        version = number
                        if kind == plural and _selected(one, query):
                            await say(word, one)
                    if self.bookmarks > bookmarks:
                        bookmarks = self.bookmarks
                        meta = {"resourceVersion": str(self.version)}
                        await say("BOOKMARK", {"kind": KINDS[plural], "metadata": meta})
                    async with self.changed:
                        await self.changed.wait_for(
                            lambda at=version, seen=bookmarks: (
                                self.version > at
                                or self.compacted > at
                                or self.bookmarks > seen
                                or self._life != life
                            )
                        )
        except TimeoutError:
            pass
        except ConnectionError:
            return response
        if self._life != life and request.transport is not None:
            request.transport.abort()
        return response


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _selected(one: Object, query: dict[str, str]) -> bool:
    labels = one["metadata"].get("labels") or {}
    return all(
        labels.get(key) == value for key, value in _pairs(query.get("labelSelector"))
    ) and all(_field(one, key) == value for key, value in _pairs(query.get("fieldSelector")))


def _pairs(text: str | None) -> Iterator[tuple[str, str]]:
    for part in filter(None, (text or "").split(",")):
        key, _, value = part.partition("=")
        yield key, value.lstrip("=")


def _field(one: Object, path: str) -> Any:
    found: Any = one
    for word in path.split("."):
        found = (found or {}).get(word)
    return found


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
