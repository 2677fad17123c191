"""The link between a kernel's shim and the gateway: numbered, resumable, fenced, without I/O.

Pure, standard library only, Python >= 3.8: this file is shipped inside the shim. docs/link-
protocol.md says what is on the wire. Two endpoints:

* `ShimLink` lives in the process tree that is dumped. Its state *is* the position in a checkpoint:
  outputs are stamped `(epoch, seq)` when they are produced and kept until acknowledged, inputs are
  applied in order of number, once.
* `GatewayLink` has the last `(epoch, seq)` it journaled and all inputs that no committed checkpoint
  covers.

After any loss of any hop both say HELLO with what they have, and send the rest again. A rollback is
nothing else than a shim whose HELLO says less than before; a planned move one that says the same
under a new epoch.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Iterator, NamedTuple, Protocol, Sequence, Union  # noqa: UP035

from gateway.frames import (
    ACK,
    DATA,
    HELLO,
    STAMP,
    Hello,
    LinkError,
    encode_ack,
    encode_data,
    encode_payload,
    kind_of,
    stamp_of,
)

MiB = 1 << 20
# What a shim keeps of unacknowledged output before it stops reading the kernel's iopub.
OUTPUT_LIMIT = 64 * MiB
# Who holds inputs back when nothing else is said: a pause that ends with the agent's connection.
AGENT = "agent"


# -- the shim's side --------------------------------------------------------------------------


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
        self._unacked: deque[tuple[tuple[int, int], bytes]] = deque()
        self._unsent: deque[tuple[tuple[int, int], bytes]] = deque()
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
        frame = b"".join((STAMP.pack(DATA, epoch, self.next_seq), encode_payload(channel, parts)))
        item = ((epoch, self.next_seq), frame)
        self.next_seq += 1
        self.unacked_bytes += len(frame)
        self._unacked.append(item)
        if self._greeted:
            self._unsent.append(item)

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
            hello = Hello.decode(frame)
            if hello.epoch == epoch:
                self._acked(hello.received)
                self._unsent = deque(self._unacked)
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
        while self._unacked and self._unacked[0][0] <= upto:
            _, frame = self._unacked.popleft()
            self.unacked_bytes -= len(frame)
        while self._unsent and self._unsent[0][0] <= upto:
            self._unsent.popleft()

    def _say_hello(self, epoch: int, answer: bool) -> None:
        self._hello = self._position(epoch, answer)

    def _position(self, epoch: int, answer: bool) -> Hello:
        first = self._unacked[0][0][1] if self._unacked else self.next_seq
        return Hello(epoch, (epoch, self.applied), self.next_seq, answer, first)

    def next_frame(self, epoch: int) -> bytes | None:
        """The next frame to write, or None.

        HELLO and ACK go before outputs, always: who sees an output knows that the input which
        caused it was applied.
        """
        if self._hello is not None:
            answer, self._hello, self._ack = self._hello.answer, None, False
            return self._position(epoch, answer).encode()
        if not self._greeted:
            return None
        if self._ack:
            self._ack = False
            return encode_ack(epoch, self.applied)
        if self._unsent:
            return self._unsent.popleft()[1]
        return None


# -- the gateway's side -----------------------------------------------------------------------


class InputStore(Protocol):
    """Where the gateway keeps inputs, by consecutive number. Read from disk or memory: not the
    link's business.
    """

    @property
    def last(self) -> int:
        """Highest number given out; 0 at first."""

    def append(self, payload: bytes) -> int:
        """Keep a payload durably; its number."""

    def get(self, number: int) -> bytes:
        """The payload; empty (a void input) if withdrawn, or released and gone."""

    def void(self, number: int) -> None:
        """Withdraw an input: `get` gives an empty payload from now on."""

    def release(self, upto: int) -> None:
        """Inputs up to this number are not needed any more."""

    def skip_to(self, number: int) -> None:
        """The next number is at least this one."""


class Output(NamedTuple):
    """A new output. Journal it, then call `GatewayLink.accept(output)`. `missing` outputs before it
    are lost.
    """

    epoch: int
    seq: int
    payload: memoryview
    missing: int


class Resumed(NamedTuple):
    """The shim's answer to our HELLO. When its consequences are dealt with, call `resume()`.

    `applied`: last input of this incarnation. `before`: what was acknowledged before; larger means
    rollback. `dead_from`: outputs already received with this seq or above belong to a life that is
    no more; None if there are none.
    """

    epoch: int
    applied: int
    before: int
    dead_from: int | None

    @property
    def rolled_back(self) -> bool:
        return self.applied < self.before or self.dead_from is not None


class FencedOff(NamedTuple):
    """A shim of another epoch spoke. It was not listened to."""

    epoch: int


Event = Union[Output, Resumed, FencedOff, None]  # noqa: UP007 (Python 3.8)


class GatewayLink:
    """Inputs and outputs of one kernel, as the gateway sees them.

    `received`: last output journaled; `acked`: last input that the shim applied; `sent_high`: last
    input that may have reached a shim; `decided`: last epoch whose rollback, if any, was dealt
    with. Frames to write come from `outgoing()`, after every other
    call.
    """

    def __init__(
        self,
        inputs: InputStore,
        received: tuple[int, int] = (0, 0),
        acked: int = 0,
        decided: int = 0,
    ) -> None:
        self.inputs = inputs
        self.received = received
        self.acked = acked
        self.decided = decided
        self.sent_high = inputs.last
        self.epoch: int | None = None
        self.unacknowledged = 0
        self.unacknowledged_bytes = 0
        # Counted for whoever wants to know, who sets them back.
        self.known_again = self.sent_again = 0
        self._sent = acked
        self._hello = False
        self._greeted = False  # the shim's HELLO is here
        self._flowing = False  # ... and the caller has dealt with it
        self._expect = 1
        self._missing = 0
        self._resumed_at: Resumed | None = None

    def attach(self, epoch: int) -> None:
        """A node is there, with this epoch."""
        self.epoch = epoch
        self._restart()

    def detach(self) -> None:
        """The node is gone, or is not to be heard any more."""
        self.epoch = None
        self._greeted = self._flowing = False
        self._hello = False

    def _restart(self) -> None:
        self._greeted = self._flowing = False
        self._hello = True

    def submit(self, payload: bytes) -> int:
        """Keep an input; its number. It is in `outgoing()` as soon as the link is up."""
        return self.inputs.append(payload)

    def release(self, upto: int) -> None:
        """A committed checkpoint contains the inputs up to this number."""
        self.inputs.release(upto)

    def receive(self, frame: Any) -> Event:
        """Take a frame of the attached node's shim. Raises `LinkError`."""
        kind = kind_of(frame)
        if self.epoch is None:
            return None
        if kind == DATA:
            return self._output(frame)
        if kind == ACK:
            epoch, number = stamp_of(frame)
            if self._flowing and epoch == self.epoch and self.acked < number <= self.sent_high:
                self.acked = number
            return None
        if kind == HELLO:
            return self._resumed(Hello.decode(frame))
        return None

    def _resumed(self, hello: Hello) -> Event:
        if hello.epoch != self.epoch:
            return FencedOff(hello.epoch)
        applied = hello.received[1]
        if hello.epoch <= self.received[0] and hello.next <= self.received[1]:
            raise LinkError(
                f"the shim offers output {hello.next} of epoch {hello.epoch}, "
                f"{self.received[1]} was received: restored without a new epoch"
            )
        if applied > self.inputs.last:
            self.inputs.skip_to(applied + 1)
            self.sent_high = max(self.sent_high, applied)
        if not hello.answer:
            # It doesn't know yet what we have; its answer to ours will say what comes first.
            self._restart()
            return None
        # What a new epoch sends first tells which of the older outputs nobody lives with.
        first = hello.next if hello.first is None else hello.first
        new = hello.epoch > max(self.decided, self.received[0])
        dead_from = first if new and first <= self.received[1] else None
        self._greeted, self._flowing = True, False
        self._expect = first
        self._missing = max(0, first - self.received[1] - 1) if self.received[1] else 0
        self._resumed_at = Resumed(hello.epoch, applied, self.acked, dead_from)
        return self._resumed_at

    def resume(self) -> None:
        """Inputs flow again, from the first that the shim has not applied.

        What this epoch has rolled back is decided: it is told once.
        """
        if not self._greeted or self._resumed_at is None:
            return
        self._sent = self.acked = self._resumed_at.applied
        self.decided = self._resumed_at.epoch
        self._flowing = True

    def _output(self, frame: Any) -> Event:
        if not self._flowing or self.epoch is None:
            return None
        epoch, seq = stamp_of(frame)
        if epoch > self.epoch:
            return FencedOff(epoch)
        if seq > self._expect:
            self._restart()  # a frame was lost on the way
            return None
        if (epoch, seq) <= self.received:
            self.known_again += 1
            self._expect = max(self._expect, seq + 1)
            return None
        return Output(epoch, seq, memoryview(frame)[STAMP.size :], self._missing)

    def accept(self, output: Output) -> None:
        """The output is written down; it will be acknowledged."""
        self.received = (output.epoch, output.seq)
        self._expect, self._missing = output.seq + 1, 0
        self.unacknowledged += 1
        self.unacknowledged_bytes += len(output.payload)

    @property
    def silent(self) -> bool:
        """A node is attached, and its shim has not answered our HELLO."""
        return self.epoch is not None and not self._greeted

    def ask_again(self) -> None:
        """Say HELLO once more, with the next `outgoing()`: nobody answered, or an output could not
        be written down and must come again.
        """
        self._restart()

    def take_ack(self) -> bytes | None:
        """An ACK for everything received, or None if there is nothing new. When to send it is the
        caller's choice.
        """
        if not self.unacknowledged or not self._greeted:
            return None
        self.unacknowledged = self.unacknowledged_bytes = 0
        return encode_ack(*self.received)

    def outgoing(self) -> Iterator[bytes]:
        """Frames to write now, in order."""
        if self.epoch is None:
            return
        if self._hello:
            self._hello = False
            yield Hello(self.epoch, self.received, self.inputs.last + 1, answer=False).encode()
        while self._flowing and self._sent < self.inputs.last:
            self._sent += 1
            self.sent_again += self._sent <= self.sent_high
            self.sent_high = max(self.sent_high, self._sent)
            yield encode_data(self.epoch, self._sent, self.inputs.get(self._sent))
