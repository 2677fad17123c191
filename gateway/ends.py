"""Every request ends: with what its kernel says, or in the kernel's place with the reason.

`Ends` knows what was asked of one kernel, which of it has its reply and its `idle`, and which of
it ends for the second time and is not shown again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from gateway.frames import IOPUB
from gateway.journal import IDLE, REPLY, Journal
from gateway.observer import Observer
from gateway.outlet import Outlet
from gateway.owed import Owed
from gateway.requests import Request, Requests

log = logging.getLogger(__name__)

# What ends a request: of one that asks for a reply, and of one that doesn't (a comm message, say).
_ENDS = {True: (REPLY | IDLE,), False: (IDLE, REPLY | IDLE)}


class Ends:
    """See the module. `still_owed()` gives a test that is true as long as it is the kernel of now
    that owes a reply.
    """

    def __init__(
        self,
        kernel_id: str,
        journal: Journal,
        outlet: Outlet,
        observer: Observer,
        still_owed: Callable[[], Callable[[], bool]],
    ) -> None:
        self.requests = Requests()
        # msg_id of a request that ends for the second time → which of its two ends came again
        self.muted: dict[str, int] = {}
        self._kernel_id = kernel_id
        self._journal = journal
        self._outlet = outlet
        self._observer = observer
        self._still_owed = still_owed
        self._owed = Owed(self._no_reply)

    def close(self) -> None:
        """Wait for no reply any more."""
        self._owed.close()

    def note(self, request: Request, flags: int, seq: int = 0) -> bool:
        """The journal has these ends of it. Returns whether it has ended now."""
        if request.msg_id in self.muted:
            # Reply and idle come over two sockets, in either order.
            self.muted[request.msg_id] |= flags & (REPLY | IDLE)
            if self.muted[request.msg_id] in _ENDS[request.asks]:
                del self.muted[request.msg_id]
        return self.requests.note_end(request, flags, seq)

    def turn_away(self, payload: bytes | memoryview, ename: str, reason: str) -> None:
        """Answer a request that no kernel gets."""
        msg_id = self.requests.add(0, payload, self._outlet.last_cursor).msg_id
        request = self.requests.open.pop(msg_id, None)
        if request is not None:
            self.abort(request, ename, reason)

    def abort_pending(self, ename: str, reason: str, upto: int | None = None) -> None:
        """Answer what waits (numbers up to `upto`) with an error, and never run it again."""
        for request in self.requests.unfinished():
            if upto is None or request.number <= upto:
                self.abort(request, ename, reason)
                self._journal.inputs.void(request.number)

    def abort(self, request: Request, ename: str, reason: str) -> None:
        """End a request in the kernel's place, with an error that says why."""
        error: dict[str, Any] = {"ename": ename, "evalue": reason, "traceback": [reason]}
        if request.msg_type == "execute_request" and not request.seen_to_end:
            self._say(IOPUB, "error", error, request)
        if not request.replied and request.msg_type.endswith("_request"):
            kind = request.msg_type.removesuffix("_request") + "_reply"
            content = {"status": "error", **error}
            if kind == "execute_reply":
                content |= {"execution_count": 0, "payload": [], "user_expressions": {}}
            self._say(request.channel, kind, content, request, REPLY)
        if not request.idle:
            self._idle(request)

    def output_lost(self, msg_id: str) -> bool:
        """A kernel that drops what it cannot send has dropped the end of a request's outputs: say
        so, and end it. Returns False if it had ended.
        """
        request = self.requests.open.get(msg_id)
        if request is None or request.idle:
            return False
        words = "Some output is missing: the kernel dropped what it could not send."
        log.error("kernel %s: %s", self._kernel_id, words)
        self._say(IOPUB, "stream", {"name": "stderr", "text": words + "\n"}, request)
        self._idle(request)
        return True

    def output_doubtful(self, msg_id: str, seconds: float) -> None:
        """A kernel that drops what it cannot send may have: say so below the cell."""
        words = (
            "Some output may be missing: this kernel drops what it cannot send, and could not send"
            f" for {seconds:.2f} s while it printed, as the machine was busy."
        )
        request = self.requests.open.get(msg_id)
        log.warning("kernel %s: %s", self._kernel_id, words)
        if request is not None and not request.idle:
            self._say(IOPUB, "stream", {"name": "stderr", "text": words + "\n"}, request, 0)

    def expect_reply(self, request: Request) -> None:
        """The kernel said that the request has ended, and has not replied: it may never."""
        owed = self._still_owed()
        if request.msg_id not in self.muted:
            self._owed.expect(request, lambda: owed() and request.msg_id not in self.muted)

    def _no_reply(self, request: Request) -> None:
        reason = f"The kernel ended this {request.msg_type} without a reply."
        self.abort(request, "NoReply", reason)
        self._observer.request_done(self._kernel_id, request.msg_type)

    def _idle(self, request: Request) -> None:
        self._say(IOPUB, "status", {"execution_state": "idle"}, request, IDLE)

    def _say(
        self, channel: int, kind: str, content: dict[str, Any], request: Request, flags: int = 0
    ) -> None:
        self._outlet.say(channel, kind, content, request, flags)
        self.note(request, flags)
