"""Holds the port of a UI server, and starts the server again whenever it is lost.

    python -m sessionkeeper.ui.attendant DIRECTORY SOCKET LOCK

`SOCKET` is the descriptor of a socket that listens already. It stays open here, so that a browser
whose UI server has just been killed waits for the next one instead of being refused. `LOCK` is that
of a locked file: as long as this process lives, it is locked. `DIRECTORY/start.json` says what to
run: `{"argv", "env"}`; it gets the socket as descriptor `SESSIONKEEPER_LISTEN_FD`.

What ends with exit status 0 has ended for good, and `DIRECTORY/ended` says so. Anything else is
started again, after growing pauses. SIGTERM ends both, and says nothing about for good. Imports
next to nothing: every user of a hub has one of these.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

__all__ = ["ENDED", "LISTEN_FD", "LOG", "START", "attend", "restart_delay"]

START, ENDED, LOG = "start.json", "ended", "ui.log"
LISTEN_FD = "SESSIONKEEPER_LISTEN_FD"

STEADY_SECONDS = 30.0
STOP_SECONDS = 5.0
LARGEST_LOG = 16 << 20

_PR_SET_PDEATHSIG = 1


def restart_delay(failures: int) -> float:
    """Seconds until a server is started again that was lost `failures` times in a row."""
    return 0.0 if failures <= 1 else float(min(0.25 * 2 ** (failures - 2), 10.0))


class _Told(BaseException):
    """SIGTERM."""


def attend(directory: Path, socket: int) -> None:
    """Keep the UI server running until it ends for good, or SIGTERM. Raises what keeps it from
    being started at all: `OSError`, `ValueError`.
    """
    start = json.loads((directory / START).read_text())
    child: subprocess.Popen[bytes] | None = None
    signal.signal(signal.SIGTERM, _told)
    failures, log = 0, directory / LOG
    try:
        while True:
            began = time.monotonic()
            if log.exists() and log.stat().st_size > LARGEST_LOG:
                log.replace(log.with_suffix(".log.1"))
            with log.open("ab") as output:
                child = subprocess.Popen(
                    start["argv"],
                    env={**start["env"], LISTEN_FD: str(socket)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(socket,),
                    preexec_fn=_die_with(os.getpid()),  # there are no threads
                )
            status = child.wait()
            if status == 0:
                (directory / ENDED).write_text("0")
                return
            steady = time.monotonic() - began > STEADY_SECONDS
            failures = 1 if steady else failures + 1
            time.sleep(restart_delay(failures))
    except _Told:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if child is not None:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_SECONDS)
        return
    child.kill()
    child.wait()


def _told(number: int, frame: FrameType | None) -> None:
    raise _Told


def _die_with(parent: int) -> Callable[[], None]:
    """A server without its attendant would keep the next one from its port: it dies with it."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


if __name__ == "__main__":
    attend(Path(sys.argv[1]), int(sys.argv[2]))
