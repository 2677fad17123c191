"""How a child process says that it is ready: a line on a pipe that it inherits (`--ready-fd`).

The same convention as s6's notification descriptors (skarnet.org/software/s6/notifywhenup.html):
no polling, and a process that dies first is known at once by the end of the pipe.
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["announce"]


def announce(ready_fd: int | None, word: str = "ready") -> None:
    """Tell whoever started this process that it serves. May be called again, after a restart.
    Does nothing without a descriptor, or when nobody listens any more."""
    if ready_fd is not None:
        with suppress(OSError):
            os.write(ready_fd, f"{word}\n".encode())
