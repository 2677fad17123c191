"""A server on a socket that answers as a cloud's metadata service does, or as none should.

Every request is written down. `broken` takes the place of the right answer until it is cleared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

PATIENCE = 20.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str
    peer: str


@dataclass(frozen=True)
class Reply:
    """`raw` is sent in place of all else; empty: the connection is cut. `lines`: the body, as it
    comes, until there are no more or the client has gone.
    """

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    lines: AsyncIterator[str] | None = None


HANG = Reply(raw=b"hang")
CUT = Reply(raw=b"")
FAULTS = {
    "too many requests": Reply(429, "slow down", {"Retry-After": "1"}),
    "unavailable": Reply(503, "unavailable"),
    "cut": CUT,
    "cut within the answer": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "not HTTP": Reply(raw=b"\x00\xff\x16\x03 what is this\r\n\r\n"),
    "another service": Reply(200, "<html>Welcome to your router</html>"),
    "forbidden": Reply(403, "no"),
    "not UTF-8": Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe"),
    "too large": Reply(200, "x" * (2 << 20)),
    "elsewhere": Reply(302, "", {"Location": "http://127.0.0.1:1/"}),
}


class Service:
    """Base of the clouds: `answer` one request; `changed` after each change of what it says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.broken: Reply | None = None
        self.ahead = timedelta()
        """By how much its clock is ahead of this machine's."""
        self.changed = asyncio.Condition()
        self.url = ""
        self.hanging = 0

    async def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    async def give(self, seconds: float) -> None:
        """Give notice that the machine goes in so many seconds."""
        raise NotImplementedError

    async def withdraw(self) -> None:
        raise NotImplementedError

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until it is so; looked at after each request and each change."""
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: bool(condition()))

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1") -> AsyncIterator[Any]:
        server = await asyncio.start_server(self._connected, host, 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self.port = port
        self._tasks: set[asyncio.Task[Any]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _read(reader, writer)) is not None:
                self.requests.append(request)
                await self.tell()
                reply = self.broken or await self._until_left(request, reader)
                if reply is None:
                    break
                if reply.raw is not None:
                    if reply is HANG:
                        self.hanging += 1
                        await self.tell()
                        await reader.read()
                        self.hanging -= 1
                    writer.write(b"" if reply is HANG else reply.raw)
                    break
                if reply.lines is not None:
                    await _stream(reply.lines, reader, writer)
                    break
                writer.write(self._encoded(reply))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _until_left(self, request: Request, reader: asyncio.StreamReader) -> Reply | None:
        """The answer; None when the client has gone, or a fault cuts in."""
        answer = asyncio.ensure_future(self.answer(request))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answer, gone}, return_when="FIRST_COMPLETED")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        if not answer.done():
            answer.cancel()
            return None
        return answer.result()

    def _encoded(self, reply: Reply) -> bytes:
        body = reply.body.encode()
        headers = {
            "Date": format_datetime(self.now(), usegmt=True),
            "Content-Length": str(len(body)),
            "Content-Type": "text/plain",
            **reply.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {reply.status} Status\r\n{head}\r\n".encode() + body


async def _stream(
    lines: AsyncIterator[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())

    async def send() -> None:
        async for line in lines:
            writer.write(f"{len(line) + 1:x}\r\n{line}\n\r\n".encode())
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    sending = asyncio.ensure_future(send())
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({sending, gone}, return_when="FIRST_COMPLETED")
    finally:
        for task in (sending, gone):
            task.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    method, target, _ = head[0].split(" ")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    peer = writer.get_extra_info("peername")[0]
    return Request(method, parts.path, query, headers, body.decode(), peer)


class AwsService(Service):
    """IMDSv2 alone: without a token, or with one that is over, 401. Each machine is told apart by
    its address, as the real service does; `peer` None is all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens: set[str] = set()
        self.life = 21600
        self.items: dict[str, str] = {}
        self.peer: str | None = None

    async def answer(self, request: Request) -> Reply:
        if request.path == "/latest/api/token":
            return self._token(request)
        if request.headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return Reply(401, "Unauthorized")
        item = self.items.get(request.path.removeprefix("/latest/meta-data/"))
        if item is None or self.peer not in (None, request.peer):
            return Reply(404, "Not Found")
        return Reply(200, item)

    def _token(self, request: Request) -> Reply:
        if request.method != "PUT":
            return Reply(405)
        wanted = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        if "x-forwarded-for" in request.headers or not 1 <= int(wanted or 0) <= 21600:
            return Reply(400, "Bad Request")
        token = f"AQAEA{len(self.requests)}=="
        self.tokens.add(token)
        return Reply(200, token, {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": str(self.life)})

    async def give(self, seconds: float, action: str = "terminate") -> None:
        when = (self.now() + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.items["spot/instance-action"] = json.dumps({"action": action, "time": when})
        await self.tell()

    async def advise(self) -> None:
        when = self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        self.items["events/recommendations/rebalance"] = json.dumps({"noticeTime": when})

    async def withdraw(self) -> None:
        self.items.clear()


class GoogleService(Service):
    """Each value has an ETag; `wait_for_change` hangs until it is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.versions = {"preempted": 1, "maintenance-event": 1}

    async def answer(self, request: Request) -> Reply:
        key = request.path.removeprefix("/computeMetadata/v1/instance/")
        if request.headers.get("metadata-flavor") != "Google":
            return Reply(403, "Missing required header 'Metadata-Flavor': 'Google'")
        if key not in self.values:
            return Reply(404, "")
        if request.query.get("wait_for_change") == "true":
            last = request.query.get("last_etag")
            try:
                async with asyncio.timeout(float(request.query["timeout_sec"])), self.changed:
                    self.hanging += 1
                    self.changed.notify_all()
                    await self.changed.wait_for(
                        lambda: self._etag(key) != last or self.broken is not None
                    )
            except TimeoutError:
                pass
            finally:
                self.hanging -= 1
            if self.broken is not None:
                return self.broken
        flavor = {"Metadata-Flavor": "Google", "ETag": self._etag(key)}
        return Reply(200, self.values[key], flavor)

    def _etag(self, key: str) -> str:
        return f"{self.versions[key]:016x}"

    async def set(self, key: str, value: str) -> None:
        self.values[key] = value
        self.versions[key] += 1
        await self.tell()

    async def give(self, seconds: float) -> None:
        await self.set("preempted", "TRUE")

    async def withdraw(self) -> None:
        await self.set("preempted", "FALSE")


class AzureService(Service):
    """Scheduled Events, and the VM's name."""

    NAME = "FrontEnd_IN_0"

    def __init__(self) -> None:
        super().__init__()
        self.incarnation = 1
        self.events: list[dict[str, Any]] = []
        self.started: list[str] = []

    async def answer(self, request: Request) -> Reply:
        if request.headers.get("metadata") != "true":
            return Reply(400, json.dumps({"error": "Bad request. Required metadata header"}))
        if request.path == "/metadata/instance/compute/name":
            return Reply(200, self.NAME)
        known = request.path == "/metadata/scheduledevents"
        if not known or request.query.get("api-version") != "2020-07-01":
            return Reply(400, json.dumps({"error": "Bad request. api-version is invalid"}))
        if request.method == "POST":
            for one in json.loads(request.body)["StartRequests"]:
                await self.start(one["EventId"])
            return Reply(200, "")
        document = {"DocumentIncarnation": self.incarnation, "Events": self.events}
        return Reply(200, json.dumps(document), {"Content-Type": "application/json"})

    async def start(self, event_id: str) -> None:
        """Azure begins with it."""
        self.started.append(event_id)
        for event in self.events:
            if event["EventId"] == event_id:
                event.update(EventStatus="Started", NotBefore="")
        self.incarnation += 1
        await self.tell()

    async def schedule(
        self, kind: str, seconds: float, *resources: str, event_id: str = "f020ba2e"
    ) -> None:
        when = format_datetime(self.now() + timedelta(seconds=seconds), usegmt=True)
        self.events.append(
            {
                "EventId": event_id,
                "EventStatus": "Scheduled",
                "EventType": kind,
                "ResourceType": "VirtualMachine",
                "Resources": list(resources or [self.NAME]),
                "NotBefore": when,
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            }
        )
        self.incarnation += 1
        await self.tell()

    async def give(self, seconds: float) -> None:
        await self.schedule("Preempt", seconds)

    async def withdraw(self) -> None:
        self.events.clear()
        self.incarnation += 1
        await self.tell()
