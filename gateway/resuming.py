"""A channel whose kernel is restored: what its clients are shown of the way back.

`gateway.rollback` decides; this does it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.frames import IOPUB
from gateway.journal import MARK, SYNTHETIC
from gateway.link import Resumed
from gateway.messages import is_cell_output
from gateway.rollback import Plan, Rerun, Rollback, lives, plan

if TYPE_CHECKING:
    from gateway.channel import KernelChannel
    from gateway.requests import Request

_INTERRUPTED = "This was interrupted. Then its node was lost, and it is not run again."


def roll_back(channel: KernelChannel, resumed: Resumed) -> None:
    """The kernel knows less than its clients, or the journal may: bring them together."""
    requests, inputs = channel.ends.requests, channel.journal.inputs
    alive: dict[str, list[int]] = {}
    touched: set[int] = set()
    if resumed.dead_from is not None or channel.branched:
        start = min((r.cursor for r in requests.open.values()), default=channel.outlet.last_cursor)
        alive, touched = lives(channel.outlet.records(start + 1), requests.open, resumed.dead_from)
    if channel.branched:  # clients may have had outputs of these that nobody knows any more
        touched |= {request.number for request in requests.unfinished()}
    chosen = plan(
        requests.open.values(),
        channel.mode,
        resumed.applied,
        resumed.before,
        channel.link.sent_high,
        touched,
        inputs.interrupted,
    )
    for request in [*chosen.refused, *chosen.interrupted]:
        channel.ends.muted.pop(request.msg_id, None)
    channel.ends.muted |= dict.fromkeys(chosen.mute, 0)
    note = {"epoch": resumed.epoch, "applied": resumed.applied, "muted": [*channel.ends.muted]}
    channel.outlet.deliver(json.dumps(note).encode(), flags=MARK)
    _show_once(channel, chosen, alive)
    reason = (
        f"The node was lost and the session went back to its newest checkpoint (epoch "
        f"{resumed.epoch}); nothing was run again (on_rollback=stop)."
    )
    rerun = chosen.withdraw if channel.mode == "stop" else chosen.rerun
    # What was withdrawn before is not sent again.
    told = _told(r for r in rerun if inputs.held(r.number))
    continued = _told(r for r in chosen.continued if r.number not in inputs.interrupted)
    interrupted = _told(
        [r for r in chosen.interrupted if inputs.held(r.number)]
        + [r for r in chosen.continued if r.number in inputs.interrupted]
    )
    for request in chosen.withdraw:
        inputs.void(request.number)
        if not request.finished:
            channel.ends.abort(request, "NodeLost", reason)
    for request in [*chosen.refused, *chosen.interrupted]:
        inputs.void(request.number)
        if not request.finished:
            channel.ends.abort(request, "KeyboardInterrupt", _INTERRUPTED)
    for request in requests.unfinished():
        if request.number > resumed.applied and inputs.gone(request.number):
            reason = "The node was lost, and the journal does not have this request any more."
            channel.ends.abort(request, "NodeLost", reason)
    missing = sum(inputs.gone(n) for n in range(resumed.applied + 1, inputs.last + 1))
    channel.observer.rolled_back(
        Rollback(
            channel.kernel_id,
            channel.mode,
            resumed.epoch,
            resumed.applied,
            told,
            continued,
            interrupted,
            missing,
        )
    )


def _told(requests: Iterable[Request]) -> tuple[Rerun, ...]:
    return tuple(Rerun(r.msg_id, r.summary, r.finished) for r in requests)


def _show_once(channel: KernelChannel, chosen: Plan, alive: dict[str, list[int]]) -> None:
    for request in chosen.clear:
        channel.outlet.say(IOPUB, "clear_output", {"wait": False}, request)
        again = set(alive.get(request.msg_id, ()))
        if not again:
            continue
        for record in list(channel.outlet.records(min(again))):
            if record.cursor in again and is_cell_output(record.payload):
                channel.outlet.deliver(record.payload, flags=SYNTHETIC)
