"""What one tab sends, from when it comes until the gateway has it in its journal. Without I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from sessionkeeper.ui.asked import Asked

__all__ = ["Requests"]


class Requests:
    """Messages in `v1.kernel.websocket.jupyter.org`, numbered from 1 as the tab sent them."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        self._number = 0
        self._sent = 0
        self._safe = 0
        self._asked = Asked()

    def __bool__(self) -> bool:
        """Whether any is not in a journal yet."""
        return bool(self._waiting)

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def safe(self) -> int:
        """So many of the first ones need not be sent by the tab again, whatever becomes of us."""
        waiting = next(iter(self._waiting)) if self._waiting else self._number + 1
        self._safe = max(self._safe, waiting - 1)
        return self._safe

    def add(self, message: bytes) -> None:
        self._number += 1
        self._waiting[self._number] = message

    def skip(self) -> None:
        """The next one of the tab is not to be sent: it is no message."""
        self._number += 1

    def unsent(self) -> Iterator[tuple[int, bytes]]:
        """What this connection to the gateway has not carried; what is taken counts as sent."""
        for number in [n for n in self._waiting if n > self._sent]:
            message = self._waiting.get(number)
            if message is not None:
                yield number, message
            self._sent = number

    def connected(self) -> None:
        """A new connection has carried nothing."""
        self._sent = 0

    def acknowledged(self, number: int) -> None:
        """The gateway has it in its journal."""
        message = self._waiting.pop(number, None)
        if message is not None:
            self._asked.acknowledged(number, message)

    def heard(self, message: bytes | memoryview) -> None:
        """The kernel said something: perhaps a reply."""
        self._asked.heard(message)

    def branched(self) -> None:
        """This gateway's journal may not have what another one acknowledged."""
        self._waiting = OrderedDict(sorted({**self._asked.again(), **self._waiting}.items()))

    def clear(self) -> None:
        """Nobody takes them any more."""
        self._waiting.clear()
