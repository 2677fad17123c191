"""Memory that is used again: to have fresh pages for everything that is sealed takes longer than
sealing it, as the kernel clears each of them, and the host of a virtual machine looks for one.
"""

from __future__ import annotations

import threading
from collections import defaultdict

_GRAIN = 16 << 10
_LEAST = 64 << 10  # what is smaller is soon found, and would be mostly air


class Buffers:
    """Gives out memory and takes it back, at most `keep` bytes of it. Thread-safe."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._kept = 0
        self._free: defaultdict[int, list[bytearray]] = defaultdict(list)

    def take(self, size: int) -> memoryview:
        """`size` bytes, whose content may be anything."""
        if size < _LEAST:
            return fresh(size)
        whole = -(-size // _GRAIN) * _GRAIN
        with self._lock:
            free = self._free[whole]
            buffer = free.pop() if free else None
            if buffer is not None:
                self._kept -= whole
        return memoryview(bytearray(whole) if buffer is None else buffer)[:size]

    def give(self, taken: memoryview) -> None:
        """Nobody looks at it any more."""
        buffer = taken.obj
        assert isinstance(buffer, bytearray)
        with self._lock:
            if len(buffer) >= _LEAST and self._kept + len(buffer) <= self._keep:
                self._free[len(buffer)].append(buffer)
                self._kept += len(buffer)

    def clear(self) -> None:
        """Let go of what is not in use."""
        with self._lock:
            self._free.clear()
            self._kept = 0


def fresh(size: int) -> memoryview:
    """`size` bytes of nobody else's: what `Buffers.take` gives."""
    return memoryview(bytearray(size))
