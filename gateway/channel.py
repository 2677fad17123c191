"""One kernel as the gateway has it: journal, link to its node, clients.

Everything a client asks is journaled, then acknowledged, then sent; everything a kernel says is
journaled, then acknowledged, then delivered. Nodes come and go below (`attach_node`), clients
above (`attach_client`); the channel stays, also over a restart of the gateway (`recover`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gateway import trace
from gateway.ends import Ends
from gateway.errors import BadFrame, Fenced, JournalFull, VersionRefused
from gateway.frames import EVENT, IOPUB, STDIN, LinkError, decode_payload
from gateway.interrupts import Interrupts
from gateway.journal import ABORTED, IDLE, LARGE, MARK, MUTED, REPLY, Journal, Prepared
from gateway.large import LargeOutputs, LargeRequests
from gateway.link import FencedOff, GatewayLink, Output, Resumed
from gateway.messages import (
    execution_state,
    is_refusal,
    is_reply,
    read_header,
    unreadable,
    with_version,
)
from gateway.metrics import DEDUPLICATED, RESUMED, TAKEN
from gateway.observer import KernelExit, Observer
from gateway.outlet import Outlet
from gateway.resuming import roll_back
from gateway.rollback import Mode
from gateway.room import Room

log = logging.getLogger(__name__)

_REQUESTS, _OUTPUTS = TAKEN.labels("request"), TAKEN.labels("output")
_REQUESTS_AGAIN, _OUTPUTS_AGAIN = DEDUPLICATED.labels("request"), DEDUPLICATED.labels("output")
_REQUESTS_RESUMED = RESUMED.labels("request")

_ANSWER_WITHIN = 1.0  # seconds; a HELLO may be lost while an agent changes its connections
# Outputs are acknowledged when the link says so, or after so many seconds.
_ACK_AFTER = 0.25


class KernelChannel:
    """See the module. `mode` is what to do with requests after a rollback."""

    def __init__(
        self, kernel_id: str, journal: Journal, observer: Observer, mode: Mode = "replay"
    ) -> None:
        self.kernel_id = kernel_id
        self.journal = journal
        self.observer = observer
        self.mode: Mode = mode
        self.ended = False
        self.execution_state = "starting"
        self.last_activity = datetime.now(UTC)
        self.outlet = Outlet(kernel_id, journal, observer, lambda: self.link.acked)
        self.ends = Ends(kernel_id, journal, self.outlet, observer, self._still_owed)
        # The journal is from a checkpoint: clients may have had more of the kernel than it has.
        self.branched = False
        self.interrupts = Interrupts(self.ends, journal.inputs, self._flush)
        self._refusal = ""
        self._send: Callable[[bytes | memoryview], None] | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._large = LargeOutputs(
            journal.outputs, lambda: self.link, self._take_large, self._is_full, self._flush
        )
        self.large_requests = LargeRequests(journal.inputs, self.submit)
        self._room = Room(self.journal.outputs, self.outlet.feeds, self._acknowledge)
        self._retry: asyncio.TimerHandle | None = None
        self._unanswered: asyncio.TimerHandle | None = None
        self.link = self._recover()
        self._end_withdrawn()

    def _recover(self) -> GatewayLink:
        inputs, outputs = self.journal.inputs, self.journal.outputs
        for number, payload in inputs.recover():
            self.ends.requests.add(number, payload, 0)
        self.ends.requests.forget(inputs.withdrawn)
        by_number = {r.number: r for r in self.ends.requests.open.values()}
        received, acked, decided = (0, 0), 0, 0
        self.branched = self.journal.branched_at >= 0
        for record in outputs.recover():
            if record.flags & MARK:
                self.branched &= record.cursor <= self.journal.branched_at
                note = json.loads(record.payload)
                acked, self.ends.muted = note["applied"], dict.fromkeys(note["muted"], 0)
                decided = note["epoch"]
            elif record.seq:
                received, acked = (record.epoch, record.seq), record.applied
            request = by_number.get(record.request)
            if request is not None:
                self.ends.note(request, record.flags, record.seq)
        return GatewayLink(inputs, received, acked, decided)

    def _end_withdrawn(self) -> None:
        for request in self.ends.requests.unfinished():
            if self.journal.inputs.is_void(request.number):
                self.ends.abort(request, "Withdrawn", "The gateway ended while it withdrew this.")

    def close(self, *, deleted: bool) -> None:
        """Close the journal. When the kernel is deleted its clients are told so; else their
        connections end with the server's, and they come back.
        """
        self.detach_node()
        for timer in (self._ack_timer, self._retry, self._unanswered):
            if timer is not None:
                timer.cancel()
        self._room.close()
        self.ends.close()
        self.interrupts.close()
        self._large.close()
        self.outlet.close(deleted=deleted)
        self.journal.close()

    # -- the node ---------------------------------------------------------------------------------

    @property
    def kernel_lag(self) -> int:
        """Requests that the kernel's shim has not taken."""
        return max(0, self.link.inputs.last - self.link.acked)

    @property
    def works(self) -> bool:
        """Whether the kernel has a request that it has not ended, as far as the journal tells."""
        return any(r.number <= self.link.acked for r in self.ends.requests.unfinished())

    @property
    def attached(self) -> int | None:
        """Epoch of the attached node, None if there is none."""
        return self.link.epoch

    def positions(self) -> dict[str, int]:
        """What a new shim for a fresh kernel starts with: `next_seq`, `applied`."""
        return {"next_seq": self.link.received[1] + 1, "applied": self.link.inputs.last}

    def attach_node(self, send: Callable[[bytes | memoryview], None], epoch: int) -> None:
        """A node runs this kernel. `send` takes link frames for its shim, without blocking."""
        self._send = send
        self.link.attach(epoch)
        self._flush()

    def _still_owed(self) -> Callable[[], bool]:
        epoch = self.link.epoch
        return lambda: epoch is not None and self.link.epoch == epoch and not self.link.silent

    def detach_node(self) -> None:
        """The node is gone, or must not be heard any more. Requests wait in the journal."""
        self._send = None
        self.link.detach()

    def receive(self, frame: bytes | memoryview, epoch: int | None = None) -> None:
        """Take a frame of the node's shim.

        `epoch`: that of the node it came from, if the caller knows; another one than the attached
        is refused with `Fenced`. Raises `BadFrame`, `VersionRefused`.
        """
        if epoch is not None and epoch != self.link.epoch:
            raise Fenced(
                f"Kernel {self.kernel_id} is in epoch {self.link.epoch}; "
                f"a node of epoch {epoch} spoke and was not heard."
            )
        if self._large.refused():
            return
        try:
            event = self.link.receive(frame)
            if self.link.known_again:
                _OUTPUTS_AGAIN.inc(self.link.known_again)
                self.link.known_again = 0
            if isinstance(event, Output) and len(event.payload) > LARGE:
                self._large.begin(event)
                return
            if isinstance(event, Output):
                self._output(event)
            elif isinstance(event, Resumed):
                self._resumed(event)
            elif isinstance(event, FencedOff):
                self.observer.fenced(self.kernel_id, event.epoch)
        except LinkError as error:
            if error.code == "version_refused":
                refused = VersionRefused(f"Kernel {self.kernel_id}: {error}.")
                self.detach_node()
                self.ends.abort_pending("VersionRefused", f"{refused} {refused.hint}")
                raise refused from None
            raise BadFrame(f"Kernel {self.kernel_id}: {error}.") from None
        except JournalFull as error:
            self._is_full(error)
            return
        self._flush()

    def _take_large(self, output: Output, prepared: Prepared) -> None:
        self._output(output, prepared)
        self._acknowledge()

    def _is_full(self, error: JournalFull) -> None:
        log.error("kernel %s: %s Trying again in a second.", self.kernel_id, error)
        self.link.ask_again()
        self._retry = asyncio.get_running_loop().call_later(1.0, self._try_again)

    def release(self, upto: int, produced: int | None = None) -> None:
        """A committed checkpoint contains the inputs up to `upto` (outputs up to `produced`)."""
        # One that goes on must be known by whoever has to end it, also after a restart.
        waiting = min((r.number for r in self.ends.requests.unfinished()), default=upto + 1)
        self.link.release(min(upto, waiting - 1))
        self.ends.requests.release(upto, produced, self.ends.muted)

    def _try_again(self) -> None:
        self._retry = None
        self._flush()

    def _flush(self) -> None:
        if self._send is None or self._retry is not None:
            return
        for frame in self.link.outgoing(hold=self.interrupts.hold):
            if trace.enabled():
                trace.link_frame("gateway.to_agent", self.kernel_id, frame)
            self._send(frame)
        if self.link.sent_again:
            _REQUESTS_RESUMED.inc(self.link.sent_again)
            self.link.sent_again = 0
        if self.link.silent and self._unanswered is None:
            later = asyncio.get_running_loop().call_later
            self._unanswered = later(_ANSWER_WITHIN, self._ask_again)

    def _ask_again(self) -> None:
        self._unanswered = None
        if self.link.silent:
            self.link.ask_again()
            self._flush()

    def _acknowledge(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._room.awaited():
            return  # the shim has no credit then, and its kernel waits
        ack = self.link.take_ack()
        if ack is not None and self._send is not None:
            self._send(ack)

    # -- requests ---------------------------------------------------------------------------------

    def submit(self, payload: bytes | memoryview, prepared: Prepared | None = None) -> None:
        """Take a request of a client; it is in the journal when this returns.

        One whose msg_id is known is dropped. Raises `BadFrame`, `JournalFull`.
        """
        parts = decode_payload(payload)[1]
        header = read_header(parts[0])
        if not header.msg_id:
            raise BadFrame("A message without msg_id cannot be told from its own resend.")
        if header.msg_id in self.ends.requests:
            _REQUESTS_AGAIN.inc()
            return
        _REQUESTS.inc()
        if self.ended:
            self.ends.turn_away(
                payload, "KernelEnded", "The kernel has ended. Restart it to go on."
            )
            return
        wrong = unreadable(header, parts)
        if self._refusal or wrong:
            ename = "KernelElsewhere" if self._refusal else "BadRequest"
            self.ends.turn_away(payload, ename, self._refusal or wrong)
            return
        if not header.version:
            payload, prepared = with_version(payload), None
        if header.msg_type == "interrupt_request":
            self.interrupts.note()
        self.outlet.say_heavy(len(payload))
        inputs = self.journal.inputs
        number = inputs.append_prepared(prepared) if prepared else self.link.submit(payload)
        self.ends.requests.add(number, payload, self.outlet.last_cursor)
        if trace.enabled():
            trace.message("gateway.journaled", self.kernel_id, payload, number=number)
        self.last_activity = datetime.now(UTC)
        if self._send is None:
            self.observer.wanted(self.kernel_id, header.msg_type)
        self._flush()

    def refuse(self, reason: str) -> None:
        """No node will run this kernel for us any more: whoever waits, or asks, is told why. An
        empty reason ends that.
        """
        self._refusal = reason
        if reason:
            self.ends.abort_pending("KernelElsewhere", reason)

    # -- outputs ----------------------------------------------------------------------------------

    def _output(self, output: Output, prepared: Prepared | None = None) -> None:
        channel, parts = decode_payload(output.payload)
        flags, request, state = 0, None, None
        if channel == IOPUB:
            state = execution_state(parts)
            if self.ends.muted or state == "idle":
                request = self.ends.requests.open.get(read_header(parts[1]).msg_id)
                flags = IDLE if state == "idle" and request is not None else 0
        elif is_reply(channel):
            request = self.ends.requests.open.get(read_header(parts[1]).msg_id)
            flags = REPLY if request is not None and channel != STDIN else 0
            flags |= ABORTED if flags and is_refusal(parts) else 0
        if request is not None and request.msg_id in self.ends.muted:
            first = (flags & IDLE and not request.idle) or (flags & REPLY and not request.replied)
            flags |= 0 if first else MUTED
        if request is not None and flags & IDLE:
            self.interrupts.ended(request)
        number = request.number if request is not None and flags & (REPLY | IDLE) else 0
        stamp = (output.epoch, output.seq)
        self.outlet.deliver(output.payload, stamp, number, flags, prepared)
        _OUTPUTS.inc()
        self.link.accept(output)
        if self.link.ack_due:
            self._acknowledge()
        elif self._ack_timer is None:
            later = asyncio.get_running_loop().call_later
            self._ack_timer = later(_ACK_AFTER, self._acknowledge)
        self.last_activity = datetime.now(UTC)
        if output.missing:
            self.observer.missing(self.kernel_id, output.missing)
        if state is not None and not self.ended:
            before, self.execution_state = self.execution_state, state
            if state == "busy" != before:
                self.observer.busy(self.kernel_id)
        if channel == EVENT:
            self._event(json.loads(bytes(parts[0])))
        elif number and request is not None and self.ends.note(request, flags, output.seq):
            self.observer.request_done(self.kernel_id, request.msg_type)
        elif flags & IDLE and request is not None and not request.finished:
            self.ends.expect_reply(request)

    def _event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "started":
            self.ended = False
            self.execution_state = "idle"
            self.observer.started(self.kernel_id)
        elif event.get("event") == "exited":
            self.exited(KernelExit(event.get("code"), event.get("signal"), event.get("stderr", "")))
        elif event.get("event") == "output_lost":
            if self.ends.output_lost(event.get("msg_id", "")):
                self.execution_state = "idle"
        elif event.get("event") == "output_doubtful":
            self.ends.output_doubtful(event.get("msg_id", ""), float(event["seconds"]))

    def exited(self, ended: KernelExit) -> None:
        """The kernel process has ended: its shim says so, or it is gone with its shim."""
        comes_back = self.observer.exited(self.kernel_id, ended)
        if comes_back is not None:
            self.execution_state = "restarting"
            self.ends.abort_pending("KernelDied", comes_back, upto=self.link.acked)
        else:
            self.end(str(ended))

    def restarting(
        self, ename: str = "KernelRestarted", reason: str = "The kernel was restarted."
    ) -> None:
        """The user restarts the kernel: what waits is answered, the node is heard no more."""
        self.detach_node()
        self.ended = False
        self.ends.abort_pending(ename, reason)
        self.ends.muted.clear()
        self.execution_state = "starting"

    def go_back(self, reason: str) -> None:
        """As `restarting`, but to an earlier moment: nothing that it was asked is asked again."""
        self.restarting("WentBack", reason)
        self.journal.inputs.void_all()
        self.ends.requests.forget(self.journal.inputs.last)
        self.execution_state = "idle"

    def end(self, reason: str) -> None:
        """The kernel's end is final: say so to whoever waits."""
        self.ended = True
        self.ends.abort_pending("KernelEnded", reason)
        self.execution_state = "dead"
        self.outlet.say(IOPUB, "status", {"execution_state": "dead"})

    # -- rollback ---------------------------------------------------------------------------------

    def _resumed(self, resumed: Resumed) -> None:
        new = resumed.epoch > max(self.link.decided, self.link.received[0])
        if resumed.rolled_back or self.branched:
            roll_back(self, resumed)
        self.branched = False
        self.link.resume()
        if new and self.interrupts.due(resumed.applied):
            self.observer.interrupt_again(self.kernel_id)
        for request in self.ends.requests.unfinished():
            if request.idle:
                self.ends.expect_reply(request)
