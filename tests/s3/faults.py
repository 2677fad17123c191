"""An S3 service that fails in the ways services do: a proxy before one that does not."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Fault(Enum):
    ERROR_500 = "answers 500, nothing was done"
    ERROR_503 = "answers 503 Slow Down, nothing was done"
    CONFLICT = "answers 409 ConditionalRequestConflict, nothing was done"
    CUT_REQUEST = "hangs up in the middle of the request, nothing was done"
    LOST_ANSWER = "does what is asked and hangs up"
    CUT_ANSWER = "does what is asked and hangs up in the middle of the answer's body"


ERRORS = {
    Fault.ERROR_500: (500, "InternalError"),
    Fault.ERROR_503: (503, "SlowDown"),
    Fault.CONFLICT: (409, "ConditionalRequestConflict"),
}
Decision = Callable[[str], Fault | None]


def never(method: str) -> None:
    """No fault."""


def in_turn(*faults: Fault) -> Decision:
    """These for the next requests, then none."""
    left = iter(faults)
    return lambda method: next(left, None)


def at_random(seed: int, chance: float) -> Decision:
    """Any of them, for that part of the requests."""
    source, lock, faults = random.Random(seed), threading.Lock(), list(Fault)

    def decide(method: str) -> Fault | None:
        with lock:
            fault = source.choice(faults)
            hit = source.random() < chance
        return fault if hit and (fault is not Fault.CONFLICT or method == "PUT") else None

    return decide


class FaultyService:
    """`url` is that of the service with faults. Which, `decide` says for every request."""

    def __init__(self, url: str, server: ThreadingHTTPServer) -> None:
        self.upstream = urlsplit(url).netloc
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self._changed = threading.Condition()
        self.reset()

    def reset(self) -> None:
        """No fault, nothing counted."""
        self.decide: Decision = never
        self.bytes_per_second: float | None = None
        self.sent = 0  # bytes of bodies to the client
        self.requests: list[str] = []
        self.faults: Counter[Fault] = Counter()
        self._down = False

    def go_down(self) -> None:
        """From now on hang up on everyone at once."""
        self._down = True

    def come_back(self) -> None:
        self._down = False

    def wait_for_requests(self, number: int) -> None:
        """Return when so many were counted."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= number, timeout=30)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        method = request.command
        with self._changed:
            self.requests.append(method)
            self._changed.notify_all()
        if self._down:
            return hang_up(request)
        fault = self.decide(method)
        if fault is not None:
            self.faults[fault] += 1
        length = int(request.headers.get("Content-Length") or 0)
        if fault is Fault.CUT_REQUEST:
            request.rfile.read(length // 2)
            return hang_up(request)
        body = b"".join(request.rfile.read(size) for size in self._pieces(length))
        if fault in ERRORS:
            status, code = ERRORS[fault]
            xml = f"<Error><Code>{code}</Code><Message>Not now</Message></Error>".encode()
            return self._answer(request, status, [("Content-Type", "application/xml")], xml)
        status, headers, content = self._ask(request, body)
        if fault is Fault.LOST_ANSWER or (fault is Fault.CUT_ANSWER and len(content) < 2):
            return hang_up(request)
        return self._answer(request, status, headers, content, cut=fault is Fault.CUT_ANSWER)

    def _ask(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        headers = {k: v for k, v in request.headers.items() if k not in ("Expect", "Connection")}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        *,
        cut: bool = False,
    ) -> None:
        request.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of HEAD: what there is, and is not sent
            elif name.lower() not in ("connection", "transfer-encoding"):
                request.send_header(name, value)
        request.send_header("Content-Length", length)
        request.end_headers()
        content = content[: len(content) // 2] if cut else content
        at = 0
        for size in self._pieces(len(content)):
            request.wfile.write(content[at : at + size])
            at += size
        self.sent += at
        if cut:
            hang_up(request)

    def _pieces(self, length: int) -> Iterator[int]:
        """Sizes that add up to `length`, given as fast as may be transferred."""
        while length:
            size = min(length, 64 << 10)
            if self.bytes_per_second is not None:
                time.sleep(size / self.bytes_per_second)
            yield size
            length -= size


@contextmanager
def faulty(url: str) -> Iterator[FaultyService]:
    """A proxy before the service at `url`, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                service.handle(self)
            except ConnectionError:  # the client gave up
                self.close_connection = True

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def server_bind(self) -> None:
            # Small, so that a client's bytes wait with the client when they are not read here.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
            super().server_bind()

    with Server(("127.0.0.1", 0), Handler) as server:
        service = FaultyService(url, server)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()


def hang_up(request: BaseHTTPRequestHandler) -> None:
    """What was sent arrives; then the connection is gone."""
    request.wfile.flush()
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)
