"""What nobody waits for is written with what comes next, and never late."""

from __future__ import annotations

import pytest

from gateway.frames import IOPUB, SHELL, STDIN
from gateway.shim_haste import PATIENCE, Haste, can_wait


def said(kind: str, content: str = "{}") -> list[bytes]:
    return [f'{{"msg_id": "1", "msg_type": "{kind}"}}'.encode(), b"{}", b"{}", content.encode()]


BUSY = said("status", '{"execution_state": "busy"}')
IDLE = said("status", '{"execution_state": "idle"}')


@pytest.mark.parametrize("parts", [BUSY, said("execute_input", '{"code": "\\"status\\""}')])
def test_that_a_cell_begins_can_wait(parts: list[bytes]) -> None:
    assert can_wait(IOPUB, parts)


@pytest.mark.parametrize(
    ("channel", "parts"),
    [
        (IOPUB, IDLE),
        (IOPUB, said("stream", '{"text": "busy"}')),
        (IOPUB, said("execute_result")),
        (SHELL, said("execute_reply", '{"status": "ok"}')),
        (STDIN, said("input_request")),
    ],
)
def test_what_somebody_waits_for_cannot(channel: int, parts: list[bytes]) -> None:
    assert not can_wait(channel, parts)


def test_what_waits_goes_with_what_comes_next() -> None:
    haste = Haste()
    haste.wait(1.0)
    assert not haste.due(1.001)
    haste.hurry()
    assert haste.due(1.001)
    assert haste.until is None
    assert not haste.due(1.001)


def test_what_waits_alone_goes_in_time_however_much_follows() -> None:
    haste = Haste()
    haste.wait(1.0)
    haste.wait(1.004)
    assert haste.until == 1.0 + PATIENCE
    assert haste.due(1.0 + PATIENCE)
    assert haste.until is None


def test_nothing_is_due_where_there_is_nothing() -> None:
    haste = Haste()
    assert not haste.due(float("inf"))
    assert haste.until is None
