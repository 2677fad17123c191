"""Memory for a dump, had before the kernels stand still.

Dumps go to tmpfs. What takes the time there is not the copying but getting fresh pages: the host
of a virtual machine hands out memory when it is first touched, and huge pages have to be put
together. A dump of 2 GB took 0.5 s into pages that had just been used, and 2 to 6 s into others
(2 processors, Linux 6.18). So as many are used right before, and the dump goes into these very
pages: what lies free for a moment a host may take back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sessionkeeper.agent.errors import DumpFailed

WORTH_IT = 32 << 20
"""Bytes; the dump of a small kernel takes no longer than this would."""

_PIECE = bytes(4 << 20)
"""Some huge pages."""

_AT_ONCE = 2
"""Each waits for the host by itself: 2 GB took 1.5 to 1.9 s, with one 2.7 to 4.5 s."""


class Room:
    """Memory in a directory on tmpfs. Every call may block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, Path] = {}

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Have so many bytes at hand for each of what is named, until :meth:`release`. Raises
        ``DumpFailed`` when there is less than that in all.
        """
        self.release()
        free, size = self._free(), sum(sizes.values())
        if size > free:
            raise DumpFailed(
                f"the kernels have {size / 1e6:,.0f} MB of memory, and there is room for"
                f" {free / 1e6:,.0f} MB in a dump",
                hint="free some of their memory, or use a node that has more",
            )
        for name, bytes_ in sizes.items():
            if bytes_ >= WORTH_IT:
                self._files[name] = self._directory / f"room-{name}"
                try:
                    _fill(self._files[name], bytes_)
                except OSError:
                    self.release()  # it has become less; a dump will tell if it is too little
                    return

    def file(self, name: str) -> Path | None:
        """Return the file with the memory for ``name``: whoever takes it removes it from the
        directory. None if there is none.
        """
        return self._files.get(name)

    def release(self) -> None:
        """Give back what nobody has taken."""
        for file in self._files.values():
            file.unlink(missing_ok=True)
        self._files = {}

    def _free(self) -> int:
        facts = os.statvfs(self._directory)
        return facts.f_bavail * facts.f_frsize


def _fill(path: Path, size: int) -> None:
    share = -(-size // (_AT_ONCE * len(_PIECE))) * len(_PIECE)
    with path.open("wb", buffering=0) as file:

        def fill(start: int) -> None:
            for at in range(start, min(start + share, size), len(_PIECE)):
                os.pwrite(file.fileno(), _PIECE[: min(len(_PIECE), size - at)], at)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fill, range(0, size, share)))
