"""Long texts of a kernel are packed faster, into the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session, json_packer

from gateway.kernel_boot import TEXT, escaped_text, packed_with_texts

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from('\\"\n\r\t\x1b\x00\x07\x7fé😀\udc80')))


@given(TEXTS)
def test_a_text_is_escaped_as_the_json_library_does(text: str) -> None:
    try:
        expected = json_packer(text)[1:-1]
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            escaped_text(text)
    else:
        assert escaped_text(text) == expected


LONG = 'a "b"\\\n' * TEXT
CONTENTS: list[dict[str, Any]] = [
    {"name": "stdout", "text": LONG},
    {"name": "stdout", "text": LONG + "\x00\x08"},
    {
        "data": {"text/plain": LONG, "text/html": "<b>é</b>", "image/png": LONG[::-1]},
        "metadata": {},
    },
    {"data": {"application/json": {"deep": LONG}, "text/plain": LONG}, "n": [1, None, 2.5]},
]


@pytest.mark.filterwarnings("ignore:Message serialization failed")
@pytest.mark.parametrize("content", [*CONTENTS, {"text": LONG, "nan": float("nan")}])
def test_what_is_sent_is_the_same(content: dict[str, Any]) -> None:
    assert packed_with_texts(content, json_packer) == json_packer(content)


@pytest.mark.parametrize(
    "content",
    [
        {"name": "stdout", "text": "short"},
        {"text": LONG, "lone": "\ud83d"},
        {"text": LONG + "\ud83d"},
    ],
)
def test_what_is_short_or_cannot_be_packed_is_left_to_the_library(content: dict[str, Any]) -> None:
    assert packed_with_texts(content, json_packer) is None


def test_a_session_takes_the_packed_content_as_it_is() -> None:
    session = Session(key=b"key")
    message = session.msg("stream", CONTENTS[0])
    fast = {**message, "content": packed_with_texts(CONTENTS[0], json_packer)}
    assert session.serialize(fast) == session.serialize(message)
