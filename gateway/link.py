"""The link between a kernel's shim and the gateway: numbered, resumable, fenced, without I/O.

docs/link-protocol.md says what is on the wire. Two endpoints:

* `gateway.shim_link.ShimLink` lives in the process tree that is dumped. Outputs are stamped
  `(epoch, seq)` when they are produced and kept until acknowledged, inputs are applied in order of
  number, once.
* `GatewayLink` has the last `(epoch, seq)` it journaled and all inputs that no committed checkpoint
  covers.

After any loss of any hop both say HELLO with what they have, and send the rest again. A rollback is
nothing else than a shim whose HELLO says less than before; a planned move one that says the same
under a new epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from gateway.frames import (
    ACK,
    DATA,
    HELLO,
    STAMP,
    Hello,
    LinkError,
    encode_ack,
    kind_of,
    stamp_of,
)

MiB = 1 << 20
# What the gateway lets a shim have on the way at a time: bytes sent and not acknowledged. It bounds
# what one kernel puts in front of the others, on every hop.
CREDIT = 1 * MiB
# Outputs are acknowledged after so many, or so many bytes: well before a shim runs out of credit.
ACK_COUNT, ACK_BYTES = 32, CREDIT // 4
# What the gateway has on the way to a shim at a time.
INPUT_CREDIT = 4 * MiB


class InputStore(Protocol):
    """Where the gateway keeps inputs, by consecutive number. Read from disk or memory: not the
    link's business.
    """

    @property
    def last(self) -> int:
        """Highest number given out; 0 at first."""

    def append(self, payload: bytes | memoryview) -> int:
        """Keep a payload durably; its number."""

    def get(self, number: int, ahead: bytes = b"") -> bytes | memoryview:
        """The payload after `ahead`; empty (a void input) if withdrawn, or released and gone."""

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


Event = Output | Resumed | FencedOff | None


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
        credit: int = CREDIT,
    ) -> None:
        self.inputs = inputs
        self.credit = credit
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
        self._flying: deque[tuple[int, int]] = deque()  # number, bytes
        self._flying_bytes = 0
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

    def submit(self, payload: bytes | memoryview) -> int:
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
                while self._flying and self._flying[0][0] <= number:
                    self._flying_bytes -= self._flying.popleft()[1]
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
        if hello.epoch <= self.decided and applied < self.acked:
            raise LinkError(
                f"the shim has applied input {applied} in epoch {hello.epoch}, "
                f"{self.acked} was acknowledged: restored without a new epoch, or said long ago"
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
        self._flying.clear()
        self._flying_bytes = 0
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
    def ack_due(self) -> bool:
        """So much came that its acknowledgement should not wait."""
        return self.unacknowledged >= ACK_COUNT or self.unacknowledged_bytes >= ACK_BYTES

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
        caller's choice; a shim that gets none stops when its credit is used up.
        """
        if not self.unacknowledged or not self._greeted:
            return None
        self.unacknowledged = self.unacknowledged_bytes = 0
        return encode_ack(*self.received)

    def outgoing(self, hold: bool = False) -> Iterator[bytes | memoryview]:
        """Frames to write now, in order; no inputs on `hold`."""
        if self.epoch is None:
            return
        if self._hello:
            self._hello = False
            said = Hello(self.epoch, self.received, self.inputs.last + 1, False, None, self.credit)
            yield said.encode()
        while self._flowing and not hold and self._sent < self.inputs.last:
            if self._flying_bytes >= INPUT_CREDIT:
                return
            self._sent += 1
            self.sent_again += self._sent <= self.sent_high
            self.sent_high = max(self.sent_high, self._sent)
            frame = self.inputs.get(self._sent, STAMP.pack(DATA, self.epoch, self._sent))
            self._flying.append((self._sent, len(frame)))
            self._flying_bytes += len(frame)
            yield frame
