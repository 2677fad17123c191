"""What a kernel says waits a moment for what comes next; the end of a cell does not."""

from __future__ import annotations

import pytest

from gateway.frames import CONTROL, IOPUB, SHELL, STDIN
from gateway.shim_haste import BEGINS, LONG, SAYS, Haste, patience


def said(kind: str, content: str = "{}") -> list[bytes]:
    return [f'{{"msg_id": "1", "msg_type": "{kind}"}}'.encode(), b"{}", b"{}", content.encode()]


BUSY = said("status", '{"execution_state": "busy"}')
IDLE = said("status", '{"execution_state": "idle"}')


@pytest.mark.parametrize(
    ("parts", "seconds"),
    [
        (BUSY, BEGINS),
        (said("execute_input", '{"code": "\\"status\\""}'), BEGINS),
        (said("execute_result"), SAYS),
        (said("stream", '{"text": "idle"}'), SAYS),
        (said("stream", '{"text": "' + "x" * LONG + '"}'), 0.0),
        ([*said("display_data"), b"buffer"], 0.0),
        (IDLE, 0.0),
    ],
)
def test_what_a_cell_says_waits_a_moment_and_its_end_does_not(
    parts: list[bytes], seconds: float
) -> None:
    assert patience(IOPUB, parts, busy=False) == seconds


def test_a_reply_waits_for_its_idle_and_not_after_it() -> None:
    reply = said("execute_reply", '{"status": "ok"}')
    assert patience(SHELL, reply, busy=True) == SAYS
    assert patience(SHELL, reply, busy=False) == 0.0


@pytest.mark.parametrize(
    ("channel", "kind"), [(STDIN, "input_request"), (CONTROL, "interrupt_reply")]
)
def test_what_somebody_is_to_answer_does_not_wait(channel: int, kind: str) -> None:
    assert patience(channel, said(kind), busy=True) == 0.0


def test_what_waits_goes_with_what_comes_next() -> None:
    haste = Haste()
    haste.wait(1.0, BEGINS)
    assert not haste.due(1.001)
    haste.hurry()
    assert haste.due(1.001)
    assert haste.until is None
    assert not haste.due(1.001)


def test_what_waits_goes_in_time_however_much_follows() -> None:
    haste = Haste()
    haste.wait(1.0, BEGINS)
    haste.wait(1.001, SAYS)
    haste.wait(1.003, SAYS)
    assert haste.until == 1.001 + SAYS
    assert haste.due(1.001 + SAYS)
    assert haste.until is None


def test_nothing_is_due_where_there_is_nothing() -> None:
    haste = Haste()
    assert not haste.due(float("inf"))
    assert haste.until is None
