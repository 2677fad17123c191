"""What a kernel prints faster than it is read goes together: one message for many texts.

ipykernel itself puts together what is printed within 0.2 s; a program that flushes after each line
gets a message for each. Where several of them wait here, one after the other, of one stream and one
request, a client sees the same text in fewer messages. Nothing waits for it.

Pure, standard library only, Python >= 3.8.
"""

from __future__ import annotations

import re
from typing import Any, Iterator, Sequence  # noqa: UP035

# Bytes of text that go together, at most.
TOGETHER = 128 << 10
# So many texts within so many seconds, and they are left to gather before more is read (seconds).
MANY, WITHIN, GATHER = 10, 0.01, 0.001

_STREAM = re.compile(rb'"msg_type": ?"stream"')
_BEGIN = re.compile(rb'\{"name": ?"std(?:out|err)", ?"text": ?"')
_END = b'"}'


class Streams:
    """Of one kernel. Messages are header, parent_header, metadata, content, buffers; they come out
    in the order in which they came in.
    """

    def __init__(self) -> None:
        self._first: Sequence[Any] = ()
        self._begin = b""
        self._texts: list[bytes] = []
        self._size = self._count = 0
        self._since = 0.0
        self._many = False
        self._until: float | None = None

    def take(self, parts: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """A message of iopub; those that are to be said now, which may not be this one yet."""
        begin = _begins(parts)
        if begin and self._goes_on(parts, begin):
            text = parts[3][len(begin) : -len(_END)]
        else:
            yield from self.rest()
            if not begin:
                yield parts
                return
            self._first, self._begin, self._size = parts, begin, 0
            text = parts[3][: -len(_END)]
        self._count += 1
        self._texts.append(text)
        self._size += len(text)

    def rest(self) -> Iterator[Sequence[Any]]:
        """What has not been said of all that was taken."""
        if len(self._texts) == 1:
            yield self._first
        elif self._texts:
            yield [*self._first[:3], b"".join((*self._texts, _END))]
        self._first, self._texts = (), []

    def was_read(self, now: float) -> None:
        """What there was is taken, at `now`: seconds of a clock that only grows, but for a restore
        on another machine.
        """
        took = now - self._since
        if not 0 <= took < WITHIN:
            self._many = self._count >= MANY and 0 <= took < 2 * WITHIN
            self._since, self._count = now, 0
        if self._many:
            self._until = now + GATHER

    def gathers(self, now: float) -> float | None:
        """Until when nothing is to be read, as texts come so fast; None where nobody waits."""
        if self._until is not None and not 0 < self._until - now < 2 * GATHER:
            self._until = None
        return self._until

    def _goes_on(self, parts: Sequence[Any], begin: bytes) -> bool:
        return (
            bool(self._texts)
            and begin == self._begin
            and parts[1:3] == self._first[1:3]
            and self._size + len(parts[3]) <= TOGETHER
        )


def _begins(parts: Sequence[Any]) -> bytes:
    """What stands before the text of a stream's content, if that is all that is in it; else empty.

    Without parsing it: a text that has backslashes of its own is left alone, so in all others a
    quote ends it unless a backslash is before it.
    """
    if len(parts) != 4 or len(parts[3]) >= TOGETHER // 2 or not _STREAM.search(parts[0]):
        return b""
    content = parts[3]
    found = _BEGIN.match(content)
    if found is None or not content.endswith(_END):
        return b""
    at, end = found.end(), len(content) - len(_END)
    if content.find(b'"', at) == end and content[end - 1 : end] != b"\\":
        return found.group()
    quotes, escaped = content.count(b'"', at), content.count(b'\\"', at)
    return found.group() if b"\\\\" not in content and quotes - escaped == 1 else b""
