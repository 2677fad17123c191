"""Memory for a dump, had before the kernels stand still.

Dumps go to tmpfs. What takes the time there is not the copying but getting fresh pages: the host
of a virtual machine hands out memory when it is first touched, and huge pages have to be put
together. A dump of 2 GB took 0.5 s into pages that had just been used, and 2 to 6 s into others
(2 processors, Linux 6.18). So as many are used right before, and given back little by little: a
host that wants free memory back takes what lies free for a moment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sessionkeeper.agent.errors import DumpFailed

WORTH_IT = 32 << 20
"""Bytes; the dump of a small kernel takes no longer than this would."""

_PIECE = bytes(4 << 20)
"""Some huge pages."""

_AT_ONCE = 2
"""Each waits for the host by itself: 2 GB took 1.5 to 1.9 s, with one 2.7 to 4.5 s."""

AHEAD = 256 << 20
"""Bytes that a dump finds free at any time; it writes as much in a tenth of a second."""

_LOOK_EVERY = 0.002


class Room:
    """Memory in a directory on tmpfs. Every call may block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = [directory / f"room-{number}" for number in range(_AT_ONCE)]

    def reserve(self, size: int) -> None:
        """Have ``size`` bytes at hand until :meth:`release`. Raises ``DumpFailed`` when there is
        less than that.
        """
        self.release()
        free = self._free()
        if size > free:
            raise DumpFailed(
                f"the kernels have {size / 1e9:.1f} GB of memory, and there is room for"
                f" {free / 1e9:.1f} GB in a dump",
                hint="free some of their memory, or use a node that has more",
            )
        if not WORTH_IT <= size <= free / 2:
            return  # nothing may be in the way of a dump that barely fits
        share = -(-size // len(self._files))
        try:
            with ThreadPoolExecutor(len(self._files)) as pool:
                list(pool.map(_fill, self._files, [share] * len(self._files)))
        except OSError:
            self.release()  # it has become less meanwhile; a dump will tell if it is too little

    @contextmanager
    def given(self) -> Iterator[None]:
        """Give it to a dump, as fast as that takes it; at the end there is none left."""
        if not self._held():
            yield
            return
        done = threading.Event()
        giving = threading.Thread(target=self._give, args=(done,), name="room")
        giving.start()
        try:
            yield
        finally:
            done.set()
            giving.join()
            self.release()

    def release(self) -> None:
        """Give it back at once."""
        for file in self._files:
            file.unlink(missing_ok=True)

    def _give(self, done: threading.Event) -> None:
        held = self._held()
        enough = self._free() + AHEAD
        while held and not done.is_set():
            missing = enough - self._free()
            if missing > 0:
                share = max(0, held - missing) // len(self._files) // len(_PIECE) * len(_PIECE)
                for file in self._files:
                    os.truncate(file, share)
                held = share * len(self._files)
            done.wait(_LOOK_EVERY)

    def _held(self) -> int:
        return sum(file.stat().st_size for file in self._files if file.exists())

    def _free(self) -> int:
        facts = os.statvfs(self._directory)
        return facts.f_bavail * facts.f_frsize


def _fill(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, len(_PIECE)):
            file.write(_PIECE[: min(len(_PIECE), size - start)])
