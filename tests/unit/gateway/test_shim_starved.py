"""A kernel that drops what it cannot send, and did not get to send."""

from __future__ import annotations

import pytest

from gateway.shim_starved import LOOK, Starved


def said(messages: int, seconds: float, held: float) -> list[tuple[str, float]]:
    """What is told of a request during which so many messages came in so many seconds, for some of
    which nothing could be sent."""
    starved = Starved()
    starved.messages = 1
    starved.look(100.0, 7.0)
    assert starved.doubtful({"a"}) == []
    starved.messages = messages
    assert starved.due(100.0 + seconds) == (seconds > LOOK)
    starved.look(100.0 + seconds, 7.0 + held)
    told = starved.doubtful({"a"})
    assert starved.doubtful({"a"}) == []
    return [(msg_id, round(seconds, 6)) for msg_id, seconds in told]


@pytest.mark.parametrize(
    ("messages", "seconds", "held", "told"),
    [
        pytest.param(5000, 0.2, 0.05, [("a", 0.05)], id="much-and-held-up"),
        pytest.param(5000, 0.2, 0.001, [], id="much-and-sent"),
        pytest.param(10, 0.2, 0.05, [], id="little-and-held-up"),
        pytest.param(5000, 0.2, -3.0, [], id="restored-elsewhere"),
        pytest.param(900, 0.05, 0.05, [("a", 0.05)], id="held-up-all-the-time"),
    ],
)
def test_output_is_in_doubt_when_much_came_while_nothing_could_be_sent(
    messages: int, seconds: float, held: float, told: list[tuple[str, float]]
) -> None:
    assert said(messages, seconds, held) == told
