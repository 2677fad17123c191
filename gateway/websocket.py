"""`/api/kernels/{id}/channels`: the stock protocols, and `v1.sessionkeeper`, which resumes.

jupyter_server's and the kernel gateway's handler speak ZMQ with a kernel on the same machine, drop
messages above 10 MiB (Tornado's default), lose the socket's messages on a reload, and wait
up to 40 ms per message for Nagle's algorithm; nothing of them could be kept but the formats.
docs/link-protocol.md §1 and §2 say what is on the wire.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from gateway import trace
from gateway.access import Access
from gateway.auth import TOKEN_SUBPROTOCOL, subprotocols
from gateway.channel import KernelChannel
from gateway.errors import BadFrame, BadRequest, CrossOrigin, Forbidden, GatewayError
from gateway.feed import Delivery, Feed, Replies
from gateway.frames import EVENT, decode_payload, part_sizes
from gateway.journal import LARGE
from gateway.messages import (
    Header,
    legacy_to_payload,
    read_header,
    read_header_of,
    v1_to_payload,
    v1_to_pieces,
)
from gateway.reader import ReadsAhead
from gateway.repaint import repaint
from gateway.writer import FrameWriter

log = logging.getLogger(__name__)

RESUMABLE = "v1.sessionkeeper"
V1 = "v1.kernel.websocket.jupyter.org"
# 1.1: several frames go together to a client that asks for it.
VERSION = (1, 1)
# A stock client that comes back within so many seconds goes on where it was.
COME_BACK = 600.0

MESSAGE, ACK, NOTICE, SEVERAL = 1, 2, 3, 4


class Places:
    """Where stock clients were when they left: (kernel, session) → cursor."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str], tuple[int, float]] = {}

    def left(self, kernel_id: str, session: str, cursor: int) -> None:
        now = time.monotonic()
        self._left = {k: v for k, v in self._left.items() if now - v[1] < COME_BACK}
        if session:
            self._left[kernel_id, session] = (cursor, now)

    def back(self, kernel_id: str, session: str) -> int | None:
        """The cursor to go on from, None if there is none."""
        cursor, when = self._left.pop((kernel_id, session), (0, 0.0))
        return cursor if when and time.monotonic() - when < COME_BACK else None


class ChannelsHandler(Access, ReadsAhead):
    """One client of one kernel."""

    _feed: Feed | None = None
    _protocol = ""
    _quiet = False

    @property
    def channel(self) -> KernelChannel:
        return self.kernels.channel(self._kernel_id)

    async def prepare(self) -> None:
        try:
            await super().prepare()
        except CrossOrigin as error:  # 403 for a WebSocket, as in Jupyter Server
            raise Forbidden(str(error), hint=error.hint) from None
        self._kernel_id = str(self.path_args[0])
        self.kernels.record(self._kernel_id)
        offered = subprotocols(self.request)
        if RESUMABLE in offered or self.get_query_argument("cursor", None) is not None:
            self._protocol = RESUMABLE
        elif V1 in offered:
            self._protocol = V1
        try:
            self._cursor = int(self.get_query_argument("cursor", "-1"))
        except ValueError:
            raise BadRequest("'cursor' is not a number.") from None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        if self._protocol in subprotocols:
            return self._protocol
        return TOKEN_SUBPROTOCOL if TOKEN_SUBPROTOCOL in subprotocols else None

    def check_origin(self, origin: str) -> bool:
        return True  # done in `prepare`

    def get_compression_options(self) -> dict[str, Any] | None:
        return None

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        connection = self.ws_connection
        assert connection is not None
        assert connection.stream is not None
        together = self._protocol == RESUMABLE and self.get_query_argument("several", "")
        self._writer = FrameWriter(connection.stream, bytes([SEVERAL]) if together else b"")
        try:
            channel = self.channel
        except GatewayError as error:
            self.close(4404, str(error)[:120])
            return
        self._session = self.get_query_argument("session_id", "")
        if self._protocol == RESUMABLE:
            position = self._welcome(channel)
        else:
            back = self._places.back(self._place, self._session)
            position = channel.outlet.last_cursor if back is None else back
            self._quiet = back is None and channel.execution_state == "starting"
        resumes = self._protocol == RESUMABLE
        watches = resumes and bool(self.get_query_argument("observe", ""))
        replies: Replies = "maybe own" if resumes and self._cursor >= 0 else "own"
        if watches or (resumes and self.get_query_argument("others", "")):
            replies = "all"
        self._feed = Feed(
            channel.outlet,
            self._deliver,
            self._session,
            position,
            self._kernel_gone,
            self._missed,
            self._current if watches else None,
            replies,
        )
        if resumes and self.get_query_argument("unsure", ""):
            for payload in repaint(channel.journal.outputs, position, channel.journal.name):
                self._deliver(Delivery(position, payload))
        channel.outlet.attach(self._feed)

    @property
    def _place(self) -> str:
        return f"{self.tenant.name}/{self._kernel_id}"  # kernels of two tenants may have one id

    @property
    def _places(self) -> Places:
        places: Places = self.settings["places"]
        return places

    def _welcome(self, channel: KernelChannel) -> int:
        """Say where we are; the cursor to go on from."""
        newest = channel.outlet.last_cursor
        position, reset = self._cursor, False
        known = self.get_query_argument("journal", "")
        if position < 0:
            position = newest
        elif (shared := channel.journal.shared(known, position)) is None:
            position, reset = 0, True
        else:
            position = shared
        missing = max(0, channel.outlet.first_cursor - 1 - position) if self._cursor > 0 else 0
        position = max(position, channel.outlet.first_cursor - 1)
        self._notice(
            event="welcome",
            version=VERSION,
            kernel_id=self._kernel_id,
            journal=channel.journal.name,
            cursor=position,
            newest=newest,
            missing=0 if reset else missing,
            reset=reset,
            execution_state=channel.execution_state,
        )
        return position

    def _notice(self, **notice: Any) -> None:
        self._write(bytes([NOTICE]) + json.dumps(notice).encode())

    def _missed(self, count: int) -> None:
        if self._protocol == RESUMABLE:
            self._notice(event="missed", count=count)
        log.warning("kernel %s: a client missed %d messages", self._kernel_id, count)

    def _current(self, cursor: int) -> None:
        self._notice(event="current", cursor=cursor)

    def _kernel_gone(self) -> None:
        self.close(4404, "The kernel was shut down.")

    def _deliver(self, delivery: Delivery) -> tuple[Any, int] | None:
        if self._quiet and self._is_noise(delivery):
            return None
        if trace.enabled():
            where = {"cursor": delivery.cursor, "session": self._session}
            trace.message("gateway.to_client", self._kernel_id, delivery.payload, **where)
        if self._protocol == "":
            message = delivery.legacy
            return None if message is None else (self._write(message), len(message))
        pieces = delivery.resumable if self._protocol == RESUMABLE else delivery.v1
        if pieces is None:
            return None
        return self._writer.write_pieces(*pieces), len(pieces[0]) + len(pieces[1])

    def _is_noise(self, delivery: Delivery) -> bool:
        """Whether it is what a kernel says by itself before it was asked anything. Stock servers
        connect a client after that, so their clients count on each message having a parent.
        """
        channel, parts = decode_payload(delivery.payload)
        self._quiet = channel == EVENT or len(parts[1]) <= 2
        return self._quiet

    def _write(self, message: str | bytes) -> asyncio.Future[None]:
        return self._writer.write(message)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self._writer.flush()
        super().close(code, reason)

    # -- from the client --------------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        if self._feed is None:
            return None
        if len(message) > LARGE and isinstance(message, bytes) and self._protocol:
            return self._take_large(message)  # the next one is read when that is done
        with self._refusing():
            self._take(message)
        return None

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except BadFrame as error:
            log.info("kernel %s: %s", self._kernel_id, error)
            if self._protocol == RESUMABLE:
                self.close(4400, str(error)[:120])
        except GatewayError as error:
            # Not journaled, so not acknowledged: the client is to come again.
            log.error("kernel %s: a request was not taken: %s", self._kernel_id, error)
            self.close(1013, str(error)[:120])

    def _take(self, message: str | bytes) -> None:
        if self._protocol == RESUMABLE:
            number, frame = _numbered(message)
            if frame is None:
                return
            payload = v1_to_payload(frame)
        else:
            number = None
            if self._protocol == V1 and isinstance(message, bytes):
                payload = v1_to_payload(message)
            else:
                payload = legacy_to_payload(message)
        if trace.enabled():
            trace.message("gateway.from_client", self._kernel_id, payload, session=self._session)
        self._says(read_header_of(payload))
        self.channel.submit(payload)
        self._acknowledge(number)

    async def _take_large(self, message: bytes) -> None:
        with self._refusing():
            number, frame = _numbered(message) if self._protocol == RESUMABLE else (None, message)
            if frame is None:
                return
            head, rest = v1_to_pieces(frame)
            self._says(read_header(rest[: part_sizes(head)[0]]))
            await self.channel.large_requests.take(head, rest)
            self._acknowledge(number)

    def _says(self, header: Header) -> None:
        assert self._feed is not None
        self._feed.sessions.add(header.session)

    def _acknowledge(self, number: int | None) -> None:
        if number is not None:
            self._writer.write_later(bytes([ACK]) + number.to_bytes(8, "big"))

    def on_close(self) -> None:
        if self._feed is None:
            return
        if self._kernel_id in self.kernels:
            self.channel.outlet.detach(self._feed)
            if self._protocol != RESUMABLE:
                self._places.left(self._place, self._session, self._feed.position)
        self._feed.close()


def _numbered(message: str | bytes) -> tuple[int, memoryview | None]:
    """The number of a frame of v1.sessionkeeper, and the message in it, if it is one. Raises
    `BadFrame`.
    """
    if not isinstance(message, bytes) or len(message) < 9:
        raise BadFrame("A frame of v1.sessionkeeper is binary, with 9 bytes at least.")
    number = int.from_bytes(message[1:9], "big")
    if message[0] == ACK:
        return number, None
    if message[0] != MESSAGE:
        raise BadFrame(f"There is no kind {message[0]} of frames.")
    return number, memoryview(message)[9:]
