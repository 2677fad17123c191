"""A slow line between a node of this machine and the rest of the world, packet by packet.

tc-netem(8) does the same where the kernel has it; many do not, and none can be asked to. So the
node's link is taken out, and two TAP devices take its place, between which this process carries
each frame: it waits its turn on the wire, for as long as the line is long, and now and then gets
lost. TCP at both ends is the kernel's own, and finds what it would find on a real line.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import random
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.nodes.network import netns_of

__all__ = ["HOME", "Line", "Wire", "instead_of_link"]

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_CLONE_NEWNET = 0x40000000
_FRAME = 2048
_ASIDE = "aside0"


@dataclass(frozen=True)
class Line:
    """`rate` in bytes/s, `delay` in seconds, `loss` a share of the frames; `queue` frames wait at
    most, others are dropped (netem's default limit). Seeded: the same frames are lost each time.
    """

    rate: float
    delay: float
    loss: float
    queue: int = 1000
    seed: int = 1


HOME = Line(rate=10e6 / 8, delay=0.04, loss=0.01)
"""What leaves a home: 10 Mbit/s, 40 ms, 1 % loss. What comes in is not held up."""


class Wire:
    """Carries frames over a `line`: gives each to `put` when it would have arrived. `now` and
    `later` are a clock's.
    """

    def __init__(
        self,
        line: Line,
        put: Callable[[bytes], None],
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._line = line
        self._put = put
        self._now = now
        self._later = later
        self._dice = random.Random(line.seed)  # noqa: S311 - weather, no secret
        self._free = 0.0
        self._waiting = 0

    def carry(self, frame: bytes) -> None:
        """A frame begins its way."""
        if self._dice.random() < self._line.loss or self._waiting >= self._line.queue:
            return
        self._free = max(self._now(), self._free) + len(frame) / self._line.rate
        self._waiting += 1

        def arrive() -> None:
            self._waiting -= 1
            self._put(frame)

        self._later(self._free + self._line.delay, arrive)


@contextmanager
def instead_of_link(init: int, link: str, bridge: str, line: Line) -> Iterator[None]:
    """Meanwhile what leaves the node whose first process is `init` goes over `line`. `link` is this
    machine's end of its veth, `bridge` what it is plugged into. In an event loop; takes root.
    Raises RunFailed.
    """
    enter = ["nsenter", f"--net={netns_of(init)}", "--", "ip"]
    (eth0,) = json.loads(_run([*enter, "-json", "address", "show", "dev", "eth0"]))
    (route,) = json.loads(_run([*enter, "-json", "route", "show", "default"]))
    inet = next(one for one in eth0["addr_info"] if one["family"] == "inet")
    address = f"{inet['local']}/{inet['prefixlen']}"
    outer = f"{link}-t"[:15]
    here = _tap(outer)
    there = -1
    try:
        _run([*enter, "link", "set", "eth0", "down", "name", _ASIDE])
        there = _in_netns(netns_of(init), lambda: _tap("eth0"))
        _run([*enter, "link", "set", "eth0", "address", eth0["address"], "up"])
        _run([*enter, "address", "del", address, "dev", _ASIDE])
        _run([*enter, "address", "add", address, "dev", "eth0"])
        _run([*enter, "route", "replace", "default", "via", route["gateway"]])
        _run(["ip", "link", "set", outer, "master", bridge, "up"])
        with _carrying(there, here, line):
            yield
    finally:
        for handle in (there, here):  # which removes the devices
            with suppress(OSError):
                os.close(handle)
        with suppress(RunFailed):  # the node may be gone
            _run([*enter, "link", "set", _ASIDE, "name", "eth0", "up"])
            _run([*enter, "address", "add", address, "dev", "eth0"])
            _run([*enter, "route", "replace", "default", "via", route["gateway"]])


@contextmanager
def _carrying(there: int, here: int, line: Line) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    wire = Wire(line, lambda frame: _write(here, frame), loop.time, loop.call_at)
    loop.add_reader(there, _read, there, wire.carry)
    loop.add_reader(here, _read, here, lambda frame: _write(there, frame))
    try:
        yield
    finally:
        loop.remove_reader(there)
        loop.remove_reader(here)


def _read(handle: int, carry: Callable[[bytes], None]) -> None:
    with suppress(BlockingIOError):
        while True:
            carry(os.read(handle, _FRAME))


def _write(handle: int, frame: bytes) -> None:
    with suppress(OSError):  # a full queue loses it, as a switch would
        os.write(handle, frame)


def _tap(name: str) -> int:
    try:
        handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asked = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(handle, _TUNSETIFF, asked)
    except OSError as error:
        raise RunFailed(f"no TAP device can be made: {error}") from None
    return handle


def _in_netns(netns: Path, make: Callable[[], int]) -> int:
    """Do it in a thread of its own, which alone enters the namespace."""
    made: list[int] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def work() -> None:
        with open(netns) as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET) == 0:
                made.append(make())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if not made:
        raise RunFailed(f"the node's network {netns} cannot be entered")
    return made[0]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RunFailed(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
