"""What a kernel prints in many small pieces goes on in fewer messages, and as the same text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.shim_streams import GATHER, MANY, TOGETHER, WITHIN, Streams

Parts = list[bytes]


def message(
    kind: str, content: dict[str, Any], cell: str = "cell", metadata: bytes = b"{}", **how: Any
) -> Parts:
    header = json.dumps({"msg_id": "m", "msg_type": kind}).encode()
    parent = json.dumps({"msg_id": cell}).encode()
    return [header, parent, metadata, json.dumps(content, **how).encode()]


def printed(text: str, name: str = "stdout", **how: Any) -> Parts:
    return message("stream", {"name": name, "text": text}, **how)


def through(*messages: Parts) -> list[Any]:
    streams = Streams()
    said = [list(parts) for one in messages for parts in streams.take(one)]
    return [*said, *map(list, streams.rest())]


def texts(said: list[Any]) -> list[str]:
    return [json.loads(parts[3])["text"] for parts in said]


def test_texts_of_one_stream_and_one_cell_go_together() -> None:
    first = printed("a\n")
    said = through(first, printed("b\n"), printed('"c"\t\x00é\n'))
    assert texts(said) == ['a\nb\n"c"\t\x00é\n']
    assert said[0][:3] == first[:3]


def test_what_another_stream_cell_or_kind_of_message_says_stays_in_between() -> None:
    between = [
        printed("e", name="stderr"),
        printed("other", cell="another"),
        printed("noted", metadata=b'{"a": 1}'),
        message("display_data", {"data": {"text/plain": "d"}}),
        message("clear_output", {"wait": False}),
        [*printed("with a buffer"), b"buffer"],
        message("stream", {"text": "t", "name": "stdout"}),
        message("stream", {"name": "stdout", "text": "t", "more": "x"}),
        message("stream", {"name": "stdout", "text": 'a"b', "more": 'x"y'}),
        message("display_data", {"name": "stdout", "text": "no stream"}),
    ]
    for one in between:
        messages = [printed("1"), one, printed("2")]
        assert through(*messages) == messages, one


def test_one_message_comes_out_as_it_went_in_and_nothing_waits_for_it() -> None:
    one = printed("alone")
    streams = Streams()
    assert list(streams.take(one)) == []
    assert list(streams.rest()) == [one]
    assert list(streams.rest()) == []


def test_what_goes_together_is_bounded() -> None:
    said = through(*(printed("x" * 10_000) for _ in range(100)))
    assert "".join(texts(said)) == "x" * 1_000_000
    assert max(len(parts[3]) for parts in said) <= TOGETHER + 100
    assert len(said) < 10
    large = [printed("y" * TOGETHER), printed("z" * TOGETHER)]
    assert through(*large) == large


def print_and_read(streams: Streams, texts: int, begin: float, end: float) -> float:
    """Texts that come one by one, evenly, until `end`; the moment at which the last is read."""
    for number in range(1, texts + 1):
        list(streams.take(printed("x")))
        list(streams.rest())
        streams.was_read(begin + (end - begin) * number / texts)
    return end


def test_what_is_printed_without_end_is_left_to_gather_for_a_moment() -> None:
    streams = Streams()
    streams.was_read(100.0)
    now = print_and_read(streams, 3 * MANY, 100.0, 100.0 + 2 * WITHIN)
    until = streams.gathers(now)
    assert until is not None
    assert 0 < until - now < 2 * GATHER
    assert streams.gathers(until) is None


def test_what_is_printed_now_and_then_is_read_at_once() -> None:
    streams = Streams()
    streams.was_read(100.0)
    now = print_and_read(streams, 3 * MANY, 100.0, 100.0 + 6 * WITHIN)
    assert streams.gathers(now) is None
    now = print_and_read(streams, 3 * MANY, now, now + 2 * WITHIN)
    assert streams.gathers(now) is not None
    print_and_read(streams, 1, now, now + 1)
    assert streams.gathers(now + 1) is None


def test_a_kernel_restored_where_the_clock_is_behind_is_heard_at_once() -> None:
    streams = Streams()
    streams.was_read(90_000.0)
    now = print_and_read(streams, 3 * MANY, 90_000.0, 90_000.0 + 2 * WITHIN)
    assert streams.gathers(now) is not None
    assert streams.gathers(500.0) is None
    print_and_read(streams, 1, 500.0, 500.1)
    assert streams.gathers(500.1) is None


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text('ab"\\\n{}:,é😀 '))),
    st.booleans(),
    st.sampled_from([None, (",", ":")]),
)
def test_the_text_is_the_same_and_in_the_same_order(
    pieces: list[tuple[str, str]], ascii_only: bool, separators: tuple[str, str] | None
) -> None:
    def apart(said: list[Any]) -> list[tuple[str, str]]:
        shown: list[tuple[str, str]] = []
        for content in (json.loads(parts[3]) for parts in said):
            name, text = content["name"], content["text"]
            if shown and shown[-1][0] == name:
                text = shown.pop()[1] + text
            shown.append((name, text))
        return shown

    how: dict[str, Any] = {"ensure_ascii": ascii_only, "separators": separators}
    messages = [printed(text, name, **how) for name, text in pieces]
    assert apart(through(*messages)) == apart(messages)
