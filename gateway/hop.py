"""What every hop of the link does with its connection: a peer that falls silent is found out, and
little waits in the operating system where nothing can be put before it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

# Seconds between two probes of a peer, and of silence after which it is given up. Together less
# than 5 s.
PROBE, SILENT = 1.0, 3.0
# A timer may come so much too early (seconds).
_EARLY = 0.01
# An event loop that is later than this stood still itself: its peers were not silent then.
_STALL = 0.25
# linux/tcp.h; Python names it since 3.12.
_TCP_NOTSENT_LOWAT = 25
# Bytes that the operating system takes beyond those on the wire.
_UNSENT = 128 << 10


def next_turn(now: float, every: float) -> float:
    """When, after `now`, the next multiple of `every` seconds comes, on one clock.

    All connections of a machine are looked after at these moments: hundreds of idle ones wake the
    process at their other end once, and not hundreds of times.
    """
    return ((now + _EARLY) // every + 1) * every


class PeerWatch:
    """Calls `probe()` each `every` seconds and `dead()`, once, when nothing was heard for `silent`
    seconds.

    A peer is alive when something of it comes (`heard`), or takes what is sent: `unsent()` says how
    many bytes wait. Until `close`.
    """

    def __init__(
        self,
        probe: Callable[[], None],
        dead: Callable[[], None],
        every: float = PROBE,
        silent: float = SILENT,
        unsent: Callable[[], int] = lambda: 0,
    ) -> None:
        self._probe = probe
        self._dead = dead
        self._every = every
        self._silent = silent
        self._unsent = unsent
        self._waiting = 0
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._again()

    def heard(self) -> None:
        """Something came from the peer."""
        self._heard_at = self._loop.time()

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        due = next_turn(self._loop.time(), self._every)
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        now, waiting = self._loop.time(), self._unsent()
        if now - due > _STALL:
            self._heard_at = min(now, self._heard_at + now - due)
        if waiting < self._waiting:
            self._heard_at = now
        self._waiting = waiting
        if now - self._heard_at > self._silent:
            self._timer = None
            self._dead()
            return
        self._again()
        self._probe()


def prompt(sock: Any) -> None:
    """Nothing waits on a TCP socket: not for more to send (Nagle), and not behind a long queue in
    the operating system (TCP_NOTSENT_LOWAT, tcp(7)). Other sockets are left alone.
    """
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT)
