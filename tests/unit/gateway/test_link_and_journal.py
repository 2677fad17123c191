"""The link on a real journal, against a model: gateways that crash at any byte, clients that come
back at their cursor, nodes that are lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from test_link import LinkMachine

from gateway.frames import decode_payload
from gateway.journal import Journal
from gateway.link import FencedOff, GatewayLink, Output, Resumed


class JournalMachine(LinkMachine):
    """As `LinkMachine`; in addition the gateway keeps nothing but what is on its disk, and a client
    reads from the journal what comes after its cursor.

    Claim: what was acknowledged to shim or client survives any crash of the gateway; the client
    gets each output once, in order.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="journal"))
        self.shown: list[bytes] = []
        self.cursor = 0
        self.journal = Journal(self.folder)
        super().__init__()
        self._open()
        self.gateway_attaches()

    def _open(self) -> None:
        """A gateway, with what is on its disk."""
        self.journal = Journal(self.folder)
        for _ in self.journal.inputs.recover():
            pass
        received, acked = (0, 0), 0
        self.delivered = []
        for record in self.journal.outputs.recover():
            received, acked = (record.epoch, record.seq), record.applied
            self.delivered.append(bytes(decode_payload(record.payload)[1][0]))
        # The channel writes that down as well, as a mark.
        decided = getattr(self, "gateway", None) and self.gateway.decided
        self.gateway = GatewayLink(self.journal.inputs, received, acked, decided or 0)

    @rule()
    def gateway_restarts(self) -> None:
        """The rule of `LinkMachine`, on the disk's content."""
        self.journal.close()
        self._open()
        self.attached = False
        self.up.clear()
        self.down.clear()

    @rule(torn=st.binary(min_size=1, max_size=40), outputs=st.booleans())
    def gateway_crashes_while_it_writes(self, torn: bytes, outputs: bool) -> None:
        """What was not written to its end was acknowledged to nobody."""
        self.journal.close()
        files = sorted(self.folder.glob("outputs-*.log" if outputs else "inputs-*.log"))
        if files:
            with files[-1].open("ab") as file:
                file.write(b"\x00\x00\x10\x00" + torn)
        self.gateway_restarts()

    @rule(most=st.integers(1, 4))
    def client_reads(self, most: int) -> None:
        for record in self.journal.outputs.read(self.cursor + 1):
            self.shown.append(bytes(decode_payload(record.payload)[1][0]))
            self.cursor = record.cursor
            most -= 1
            if not most:
                return

    def _gateway_reads(self, frame: bytes) -> None:
        event = self.gateway.receive(frame)
        if isinstance(event, Output):
            assert not event.missing
            self.delivered.append(bytes(decode_payload(event.payload)[1][0]))
            stamp = (event.epoch, event.seq)
            self.journal.outputs.append(event.payload, stamp, self.gateway.acked)
            self.gateway.accept(event)
        elif isinstance(event, Resumed):
            self.gateway.resume()
        elif isinstance(event, FencedOff):
            self.fenced += 1

    @invariant()
    def client_sees_what_was_delivered_and_nothing_else(self) -> None:
        assert self.shown == self.delivered[: len(self.shown)]

    def teardown(self) -> None:
        try:
            super().teardown()
            self.client_reads(1 << 30)
            assert self.shown == self.delivered
        finally:
            self.journal.close()
            shutil.rmtree(self.folder)


JournalMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, print_blob=True
)
TestLinkAndJournal = JournalMachine.TestCase
