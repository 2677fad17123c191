"""Requests of one kernel, and what a rollback means for each. Pure.

After a rollback the restored kernel knows less than the client. Two groups of requests matter:

* sent, but not applied by the restored kernel: sent again (`replay`) or withdrawn (`stop`);
* applied, but with outputs that came after the checkpoint: the kernel goes on in the middle of
  them, or of their end.

What was interrupted is not run again, neither is what the kernel refused to run after an error:
nobody is there to interrupt it a second time, and its effects are not what the client was shown.

If a request had ended for the client, what comes of it again is recorded and not shown. If not,
its outputs are cleared, those that belong to the surviving life are said again, and it goes on:
so each output is shown once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.frames import EVENT, decode_payload
from gateway.journal import OutputRecord
from gateway.messages import read_header
from gateway.requests import Request

Mode = Literal["replay", "stop"]


@dataclass(frozen=True)
class Rerun:
    """One request that a rollback concerns, as it is told to the user."""

    msg_id: str
    summary: str
    finished: bool


@dataclass(frozen=True)
class Rollback:
    """What a rollback meant for a kernel.

    `rerun`: requests applied again (`replay`) or withdrawn (`stop`); `continued`: requests that go
    on from their middle; `interrupted`: those that would, or would run again, had they not been
    interrupted; `missing`: inputs that could be neither, since the journal has them no more.
    `epoch` is that of the new incarnation, `applied` its last input.
    """

    kernel_id: str
    mode: Mode
    epoch: int
    applied: int
    rerun: tuple[Rerun, ...]
    continued: tuple[Rerun, ...] = ()
    interrupted: tuple[Rerun, ...] = ()
    missing: int = 0


@dataclass
class Plan:
    """What to do. `mute`: msg_ids; `clear`: requests whose outputs are to be cleared; `interrupted`
    are withdrawn for that; `refused` as well, without a word.
    """

    rerun: list[Request] = field(default_factory=list)
    continued: list[Request] = field(default_factory=list)
    withdraw: list[Request] = field(default_factory=list)
    interrupted: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)
    mute: set[str] = field(default_factory=set)
    clear: list[Request] = field(default_factory=list)


def surviving(records: Sequence[OutputRecord], dead_from: int | None) -> list[bool]:
    """For each record, in order: does it belong to the life that goes on?

    Backwards, the numbers of one life only fall; what does not fit was rolled back, now or before.
    """
    bound = dead_from if dead_from is not None else 1 << 64
    alive = [False] * len(records)
    for i in range(len(records) - 1, -1, -1):
        seq = records[i].seq
        if 0 < seq < bound:
            alive[i] = True
            bound = seq
    return alive


def lives(
    records: Iterable[OutputRecord], requests: dict[str, Request], dead_from: int | None
) -> tuple[dict[str, list[int]], set[int]]:
    """Cursors of the outputs that survive, by msg_id; numbers of requests that have dead ones.

    `requests`: by msg_id.
    """
    alive: dict[str, list[int]] = {}
    touched: set[int] = set()
    kept, parents = [], []
    for record in records:
        if record.seq:
            channel, parts = decode_payload(record.payload)
            parents.append("" if channel == EVENT else read_header(parts[1]).msg_id)
            kept.append(record._replace(payload=b""))
    for record, parent, lives_on in zip(kept, parents, surviving(kept, dead_from), strict=True):
        if lives_on:
            alive.setdefault(parent, []).append(record.cursor)
        elif parent in requests:
            touched.add(requests[parent].number)
    return alive, touched


def plan(
    requests: Iterable[Request],
    mode: Mode,
    applied: int,
    before: int,
    sent_high: int,
    touched: set[int],
    interrupted: Collection[int] = (),
) -> Plan:
    """Decide for every request.

    `applied`: last input of the restored kernel; `before`: last input that was acknowledged;
    `sent_high`: last input that may have reached a node; `touched`: numbers of requests with
    outputs that came after the checkpoint; `interrupted`: of those that a client interrupted.
    """
    result = Plan()
    for request in requests:
        if request.number > applied:
            if request.aborted or (
                request.msg_type == "interrupt_request" and request.number <= sent_high
            ):
                result.refused.append(request)
            elif request.number in interrupted:
                result.interrupted.append(request)
            elif mode == "stop":
                if request.number <= sent_high or request.msg_type == "execute_request":
                    result.withdraw.append(request)
            elif request.number <= before or request.number in touched:
                result.rerun.append(request)
        elif request.number in touched:
            result.continued.append(request)
    for request in [*result.rerun, *result.continued]:
        if request.seen_to_end:
            result.mute.add(request.msg_id)
        elif request.msg_type == "execute_request":
            result.clear.append(request)
    return result
