"""The shim's end of the link: what it said and was asked, numbered. Without I/O.

Pure, standard library only, Python >= 3.8. It lives in the process tree that is dumped: its state
*is* the position in a checkpoint. `gateway.link` has the other end and the mechanism.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple, Sequence  # noqa: UP035

from gateway.frames import (
    ACK,
    DATA,
    HELLO,
    STAMP,
    Hello,
    LinkError,
    encode_ack,
    encode_payload,
    kind_of,
    payload_head,
    stamp_of,
)

MiB = 1 << 20
# What a shim keeps of unacknowledged output before it stops reading the kernel's iopub.
OUTPUT_LIMIT = 64 * MiB
# Bytes of an output from which on it is not copied into a frame.
LARGE = 1 << 18
# Who holds inputs back when nothing else is said: a pause that ends with the agent's connection.
AGENT = "agent"


class _Output(NamedTuple):
    """A DATA frame, of `size` bytes in all."""

    stamp: tuple[int, int]
    pieces: Sequence[Any]
    size: int


class ShimLink:
    """Outputs and inputs of one kernel, as its shim sees them.

    `next_seq` numbers the next output, `applied` is the last input applied. `epoch` is passed to
    every call rather than kept: the file it comes from may change between any two of them, by a
    restore.
    """

    def __init__(self, next_seq: int = 1, applied: int = 0, limit: int = OUTPUT_LIMIT) -> None:
        self.next_seq = next_seq
        self.applied = applied
        self.limit = limit
        self.unacked_bytes = 0
        self._unacked: deque[_Output] = deque()
        self._unsent: deque[_Output] = deque()
        self._credit: int | None = None
        self._flying = 0
        self._hello: Hello | None = None
        self._greeted = False
        self._holds: set[str] = set()
        self._ack = False

    @property
    def full(self) -> bool:
        """True: keep no more output than must be; stop reading the kernel's iopub."""
        return self.unacked_bytes >= self.limit

    def connected(self, epoch: int) -> None:
        """An agent has connected: say HELLO, send nothing else before the gateway has said it."""
        self.disconnected()
        self._say_hello(epoch, answer=False)

    def disconnected(self) -> None:
        """The agent is gone. What it asked to hold back ends with it."""
        self._greeted = self._ack = False
        self._hello = None
        self._unsent.clear()
        self._holds.discard(AGENT)

    def pause(self, who: str = AGENT) -> None:
        """Apply no inputs. They are dropped: the gateway sends them again after `resume`."""
        self._holds.add(who)

    def resume(self, epoch: int, who: str = AGENT) -> None:
        """Ends the pause of `who`; inputs flow when nobody else holds them."""
        if who in self._holds:
            self._holds.discard(who)
            if not self._holds:
                self._say_hello(epoch, answer=False)

    def produce(self, epoch: int, channel: int, parts: Sequence[Any]) -> None:
        """Stamp one output of the kernel and keep it."""
        head = STAMP.pack(DATA, epoch, self.next_seq)
        size = sum(map(len, parts))
        if size < LARGE:
            frame = encode_payload(channel, parts, head)
            output = _Output((epoch, self.next_seq), (frame,), len(frame))
        else:  # its parts are kept as they lie there
            head += payload_head(channel, [len(part) for part in parts])
            output = _Output((epoch, self.next_seq), (head, *parts), len(head) + size)
        self.next_seq += 1
        self.unacked_bytes += output.size
        self._unacked.append(output)
        if self._greeted:
            self._unsent.append(output)

    def receive(self, frame: Any, epoch: int) -> memoryview | None:
        """Take a frame of the gateway; the payload of an input that is to be applied now, or None.

        The caller must apply what it gets: it counts as applied. Raises `LinkError`.
        """
        kind = kind_of(frame)
        if kind == DATA:
            return self._input(frame, epoch)
        if kind == ACK:
            self._acked(stamp_of(frame))
        elif kind == HELLO:
            try:
                hello = Hello.decode(frame)
            except LinkError:
                self._say_hello(epoch, answer=True)  # so that the gateway can say why as well
                raise
            if hello.epoch == epoch:
                self._acked(hello.received)
                self._unsent = deque(self._unacked)
                self._flying, self._credit = 0, hello.credit
                self._greeted = True
                self._ack = False
            if not hello.answer or hello.epoch != epoch:
                self._say_hello(epoch, answer=True)
        return None

    def _input(self, frame: Any, epoch: int) -> memoryview | None:
        of, number = stamp_of(frame)
        if of != epoch or number > self.applied + 1:
            # Not for this incarnation, or a gap: HELLO tells the gateway where we are.
            if not self._holds:
                self._say_hello(epoch, answer=False)
            return None
        if number <= self.applied:
            self._ack = True
            return None
        if self._holds:
            return None
        self.applied = number
        self._ack = True
        return memoryview(frame)[STAMP.size :]

    def _acked(self, upto: tuple[int, int]) -> None:
        while self._unacked and self._unacked[0].stamp <= upto:
            output = self._unacked.popleft()
            self.unacked_bytes -= output.size
            if self._unsent and self._unsent[0] is output:
                self._unsent.popleft()
            else:
                self._flying -= output.size

    def _say_hello(self, epoch: int, answer: bool) -> None:
        self._hello = self._position(epoch, answer)

    def _position(self, epoch: int, answer: bool) -> Hello:
        first = self._unacked[0].stamp[1] if self._unacked else self.next_seq
        return Hello(epoch, (epoch, self.applied), self.next_seq, answer, first)

    def next_frame(self, epoch: int) -> bytes | None:
        """The next frame to write, or None."""
        pieces = self.next_pieces(epoch)
        return None if pieces is None else b"".join(pieces)

    def next_pieces(self, epoch: int) -> Sequence[Any] | None:
        """As `next_frame`, in pieces that follow each other, of which a large output is no copy.

        HELLO and ACK go before outputs, always: who sees an output knows that the input which
        caused it was applied.
        """
        if self._hello is not None:
            answer, self._hello, self._ack = self._hello.answer, None, False
            return (self._position(epoch, answer).encode(),)
        if not self._greeted:
            return None
        if self._ack:
            self._ack = False
            return (encode_ack(epoch, self.applied),)
        if self._unsent and (self._credit is None or self._flying < self._credit):
            output = self._unsent.popleft()
            self._flying += output.size
            return output.pieces
        return None
