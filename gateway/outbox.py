"""What waits to be sent between agent and gateway, and whose turn it is. Without I/O.

Calls and heartbeats go first. Then the kernels take turns, a piece at a time, so that neither a
message of 1 GB nor a kernel that prints without end stands in front of anybody else.
docs/link-protocol.md §5.
"""

from __future__ import annotations

import struct
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain

from gateway.errors import BadFrame
from gateway.frames import FRAME_LIMIT

# Kinds of pieces, and of several frames; in the place of a link frame's kind.
FIRST, NEXT, SEVERAL = 5, 6, 7
# Longer link frames go in pieces of so many bytes, shorter ones up to so many together.
PIECE = 256 << 10

_FIRST = struct.Struct(">BQ")
_NEXT, _SEVERAL = bytes([NEXT]), bytes([SEVERAL])
_LENGTH = struct.Struct(">I")


def first_piece(total: int, data: bytes | memoryview) -> bytes:
    """The first piece of a frame of `total` bytes."""
    return b"".join((_FIRST.pack(FIRST, total), data))


def next_piece(data: bytes | memoryview) -> bytes:
    """A further piece; the frame is whole when all its bytes have come."""
    return b"".join((_NEXT, data))


def frames_in(body: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """The frames of a message, views into it where it has several. Raises `BadFrame`."""
    if not body or body[0] != SEVERAL:
        yield body
        return
    view, at = memoryview(body), 1
    while at < len(view):
        if len(view) - at < _LENGTH.size:
            raise BadFrame("A message of several link frames is cut off in a length.")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if not size or at + size > len(view):
            raise BadFrame(f"A message of several link frames has none of {size} bytes.")
        yield view[at : at + size]
        at += size


class Pieces:
    """Puts pieces together again, of each kernel for itself.

    What waits for its rest has `most` bytes in all: two of the longest frames there are.
    """

    def __init__(self, most: int = 2 * FRAME_LIMIT) -> None:
        self._begun: dict[str, tuple[bytearray, int]] = {}
        self._most = most

    def forget(self, kernel_id: str) -> None:
        """Nobody waits for the rest of what was begun of this kernel."""
        self._begun.pop(kernel_id, None)

    def take(self, kernel_id: str, body: bytes | memoryview) -> bytes | memoryview | None:
        """Take a frame or a piece; the frame that is whole now, None if none is.

        What was begun and is not gone on with was cut off on the way, and is forgotten. Raises
        `BadFrame`.
        """
        if not body or body[0] not in (FIRST, NEXT):
            self._begun.pop(kernel_id, None)
            return body
        if body[0] == FIRST:
            if len(body) < _FIRST.size:
                raise BadFrame(f"A first piece of {len(body)} bytes is too short.")
            _, total = _FIRST.unpack_from(body)
            if not 0 < total <= FRAME_LIMIT:
                raise BadFrame(f"A link frame of {total} bytes: the limit is {FRAME_LIMIT}.")
            whole, data = bytearray(), memoryview(body)[_FIRST.size :]
        else:
            begun = self._begun.get(kernel_id)
            if begun is None:
                return None
            (whole, total), data = begun, memoryview(body)[1:]
        others = sum(len(one) for one, _ in self._begun.values() if one is not whole)
        if others + len(whole) + len(data) > self._most:
            self.forget(kernel_id)
            raise BadFrame(f"Unfinished link frames of more than {self._most} bytes.")
        whole += data
        if len(whole) < total:
            self._begun[kernel_id] = whole, total
            return None
        self._begun.pop(kernel_id, None)
        if len(whole) > total:
            raise BadFrame(f"The pieces of a link frame have more than its {total} bytes.")
        return memoryview(whole)


class Outbox:
    """Messages of one connection. `pieces`: the peer knows pieces (protocol 1.1); `several`: it
    takes several frames in a message (1.2).
    """

    def __init__(self, pieces: bool = False, several: bool = False) -> None:
        self.pieces = pieces
        self.several = several
        self._texts: deque[str] = deque()
        self._bodies: OrderedDict[str, deque[tuple[bytes | memoryview, ...]]] = OrderedDict()
        self._waiting: dict[str, int] = {}
        self._assembled = Pieces()

    @property
    def texts(self) -> int:
        """Calls, answers and events that wait."""
        return len(self._texts)

    def text(self, message: str) -> None:
        """A call, an answer, an event: goes before all frames."""
        self._texts.append(message)

    def frame(self, kernel_id: str, body: bytes | memoryview) -> int:
        """A link frame, or a piece of one; bytes that wait for this kernel then."""
        if not self.pieces and body[0] in (FIRST, NEXT):
            whole = self._assembled.take(kernel_id, bytes(body))
            if whole is None:
                return self._waiting.get(kernel_id, 0)
            body = whole
        queue = self._bodies.setdefault(kernel_id, deque())
        if self.pieces and len(body) > PIECE + _FIRST.size:
            view = memoryview(body)
            queue.append((_FIRST.pack(FIRST, len(body)), view[:PIECE]))
            queue.extend((_NEXT, view[at : at + PIECE]) for at in range(PIECE, len(body), PIECE))
        else:
            queue.append((body,))
        self._waiting[kernel_id] = self._waiting.get(kernel_id, 0) + len(body)
        return self._waiting[kernel_id]

    def next(self) -> tuple[str | bytes, str, int] | None:
        """What to send now: the message, its kernel (empty for none), and the bytes that still wait
        for that kernel.
        """
        if self._texts:
            return self._texts.popleft(), "", 0
        if not self._bodies:
            return None
        kernel_id, queue = self._bodies.popitem(last=False)
        body = queue.popleft()
        sent = sum(map(len, body))
        if self.several and queue and len(body) == 1:
            body, sent = self._together(body, queue)
        if queue:
            self._bodies[kernel_id] = queue
            self._waiting[kernel_id] -= sent
        else:
            del self._waiting[kernel_id]
        message = b"".join((uuid.UUID(kernel_id).bytes, *body))
        return message, kernel_id, max(0, self._waiting.get(kernel_id, 0))

    def _together(
        self, first: tuple[bytes | memoryview, ...], queue: deque[tuple[bytes | memoryview, ...]]
    ) -> tuple[tuple[bytes | memoryview, ...], int]:
        """A frame and those after it that fit into a message with it; their bytes."""
        frames, size = [*first], len(first[0])
        while queue and len(queue[0]) == 1 and size + len(queue[0][0]) <= PIECE:
            (frame,) = queue.popleft()
            frames.append(frame)
            size += len(frame)
        if len(frames) == 1:
            return first, size
        lengths = (_LENGTH.pack(len(frame)) for frame in frames)
        return (_SEVERAL, *chain.from_iterable(zip(lengths, frames, strict=True))), size

    def clear(self) -> None:
        """The connection has ended."""
        self._texts.clear()
        self._bodies.clear()
        self._waiting.clear()
