"""Memory of a dump that is given back while the rest of it is being stored.

Dumps lie on tmpfs, and what is stored goes through the page cache, if the store is a directory:
as much memory again, and fresh memory is what both wait for. So what was read is given back.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

PIECE = 8 << 20
"""Bytes that are given back at once: some huge pages."""


class Spent:
    """The content of a file from byte `start` on, mapped shared and writable, of which more and
    more is not needed any more. It then reads as zeros.
    """

    def __init__(self, mapped: mmap.mmap, start: int = 0) -> None:
        self._mapped = mapped
        self._start = start
        self._lock = threading.Lock()
        self._open: deque[list[int]] = deque()
        self._freed = 0

    def upto(self, end: int) -> Callable[[], None]:
        """What is to be called, in any thread, when what ends at byte `end` is not needed any more.

        `end` counts from `start`. Ask in ascending order; what lies between is given back with it.
        """
        entry = [end, False]
        self._open.append(entry)
        return partial(self._done, entry)

    def _done(self, entry: list[int]) -> None:
        with self._lock:
            entry[1] = True
            upto = self._freed
            while self._open and self._open[0][1]:
                upto = self._open.popleft()[0]
            length = (upto - self._freed) // PIECE * PIECE
            if length:
                with suppress(OSError):  # a file system that cannot; then it stays until the end
                    start = self._start + self._freed
                    self._mapped.madvise(mmap.MADV_REMOVE, start, length)
                self._freed += length
