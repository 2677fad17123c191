"""A UI server as a process on the hub's machine: begun, found again, mended, ended.

All there is to know of it is in its directory, which outlives this process: `start.json` (what to
run and where, with its secrets: only its owner can read it), `lock` (locked while its attendant
lives, with the attendant's process id in it) and `ended` (it has ended for good). So a hub that was
killed at any moment finds what it left, and ids of processes that are used again deceive nobody.

The attendant (`sessionkeeper.ui.attendant`) mends the server; :meth:`UiProcess.mend` mends the
attendant.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway import durable
from sessionkeeper.errors import Unavailable
from sessionkeeper.ui.attendant import ENDED, START

__all__ = ["UiProcess", "listen"]

STOP_SECONDS = 10.0
_BACKLOG = 128
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "VIRTUAL_ENV")
"""What an attendant gets of the hub's, which may have secrets."""


def listen(ip: str, port: int = 0) -> socket.socket:
    """A socket that listens; port 0 is one that is free. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.create_server((ip, port), family=family, backlog=_BACKLOG)


class UiProcess:
    """The one whose directory is `home`; nothing is done before :meth:`start`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._attendant: subprocess.Popen[bytes] | None = None

    def start(self, held: socket.socket, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Run `argv` on that socket, which is closed here. None may be running."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        address = list(held.getsockname()[:2])
        durable.replace(
            self.home / START,
            json.dumps({"argv": list(argv), "env": dict(env), "address": address}),
        )
        (self.home / ENDED).unlink(missing_ok=True)
        with held, self._locked() as lock:
            if lock is None:
                raise Unavailable(f"a UI server of {self.home.name} still runs")
            self._attend(held, lock)

    def address(self) -> tuple[str, int] | None:
        """Where it listens; None: it was never started."""
        started = self._started()
        return None if started is None else (str(started["address"][0]), int(started["address"][1]))

    def environ(self) -> dict[str, str]:
        """What it was started with; empty: it never was."""
        started = self._started()
        return {} if started is None else dict(started["env"])

    def poll(self) -> int | None:
        """None while it runs, else its exit status; 0: it was never started."""
        if self._attendant is not None:
            self._attendant.poll()  # or it stays a zombie
        if self._is_locked():
            return None
        address = self.address()
        if address is None:
            return 0
        try:
            return int((self.home / ENDED).read_text() or 0)
        except (OSError, ValueError):
            pass
        self.mend(address)
        return None

    def mend(self, address: tuple[str, int]) -> None:
        """Its attendant is lost, and it with it: start both again, under the same address. When
        that is taken for the moment, :meth:`poll` does it another time.
        """
        with self._locked() as lock:
            if lock is not None:
                with contextlib.suppress(OSError), listen(*address) as held:
                    self._attend(held, lock)

    async def stop(self) -> None:
        """End it, for good. Nothing of it is there afterwards."""
        if self.address() is None:
            return
        durable.replace(self.home / ENDED, "0")  # first: nobody may mend it
        if not self._is_locked():
            return
        ended = asyncio.ensure_future(asyncio.to_thread(self._wait))
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            done, _ = await asyncio.wait((ended,), timeout=STOP_SECONDS)
            if done:
                break
        if self._attendant is not None:
            self._attendant.poll()

    def _started(self) -> dict[str, Any] | None:
        try:
            started: dict[str, Any] = json.loads((self.home / START).read_text())
        except (OSError, ValueError):
            return None
        return started

    def _attend(self, held: socket.socket, lock: int) -> None:
        descriptors = (held.fileno(), lock)
        self._attendant = subprocess.Popen(
            [
                *(sys.executable, "-m", "sessionkeeper.ui.attendant", str(self.home)),
                *map(str, descriptors),
            ],
            pass_fds=descriptors,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # what ends the hub does not end it
        )
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(self._attendant.pid).encode(), 0)

    @contextlib.contextmanager
    def _locked(self, wait: bool = False) -> Iterator[int | None]:
        """The descriptor of the lock, None when another process has it. Closing it here leaves it
        locked as long as an attendant has it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        lock = os.open(self.home / "lock", flags, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
            else:
                yield lock
        finally:
            os.close(lock)

    def _is_locked(self) -> bool:
        if not self.home.exists():
            return False
        with self._locked() as lock:
            return lock is None

    def _wait(self) -> None:
        with self._locked(wait=True):
            pass

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.home / "lock").read_text()), number)
