"""userfaultfd(2) as seen by who serves another process's memory.

The descriptor comes from CRIU, which registered the process's private anonymous memory with it:
whoever touches a page that is not there waits until it is. The process also waits when it forks,
unmaps, moves or discards memory, until the event was read; from the moment it begins until then,
`copy` is refused with EAGAIN. So if one thread alone reads events and copies, what it knows of the
address space is never behind what it copies to.

Source: `include/uapi/linux/userfaultfd.h`, `mm/userfaultfd.c`, `fs/userfaultfd.c` (Linux 6).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint.criu.pagemap import PAGE, U8

_COPY, _ZEROPAGE, _WAKE = 0xC028AA03, 0xC020AA04, 0x8010AA02
_RANGE = struct.Struct("=QQ")
_COPY_ARGUMENT = struct.Struct("=QQQQq")
_ZERO_ARGUMENT = struct.Struct("=QQQq")
_MESSAGE = struct.Struct("=B7xQQQ")
_AT_ONCE = 64


@dataclass(frozen=True)
class Fault:
    """Somebody waits for `page` (address / `PAGE`, as everywhere here)."""

    page: int


@dataclass(frozen=True)
class Forked:
    """The process has a child with a copy of its memory, as far as that is there: it is served
    through `descriptor`.
    """

    descriptor: int


@dataclass(frozen=True)
class Moved:
    """Pages `start` to before `end` are from `to` on now."""

    start: int
    end: int
    to: int


@dataclass(frozen=True)
class Removed:
    """Pages `start` to before `end` are gone, or are zero again."""

    start: int
    end: int


Event = Fault | Forked | Moved | Removed


def events(descriptor: int) -> Iterator[Event]:
    """What has happened, in order; nothing if nothing has. The descriptor must not block.

    Read all of them: who caused one goes on when it was read.
    """
    try:
        data = os.read(descriptor, _AT_ONCE * _MESSAGE.size)
    except BlockingIOError:
        return
    for kind, first, second, third in _MESSAGE.iter_unpack(data):
        match kind:
            case 0x12:  # UFFD_EVENT_PAGEFAULT: flags, address
                yield Fault(second // PAGE)
            case 0x13:  # UFFD_EVENT_FORK: descriptor
                yield Forked(first & 0xFFFF_FFFF)
            case 0x14:  # UFFD_EVENT_REMAP: from, to, length
                yield Moved(first // PAGE, (first + third) // PAGE, second // PAGE)
            case 0x15 | 0x16:  # UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP: start, end
                yield Removed(first // PAGE, -(-second // PAGE))
            case _:
                raise OSError(errno.EPROTO, f"userfaultfd told of {kind:#x}, which is not known")


def copy(descriptor: int, page: int, data: U8) -> int:
    """Put `data`, whole pages, where `page` is missing, and wake who waits for them.

    Returns how many pages were copied, which may be less. Raises OSError: EAGAIN (read the events
    first), EEXIST (the first page is there), ENOENT (it is not in this process's memory, or the
    pages are not in one mapping), ESRCH (the process has ended).
    """
    argument = bytearray(_COPY_ARGUMENT.pack(page * PAGE, data.ctypes.data, data.nbytes, 0, 0))
    try:
        fcntl.ioctl(descriptor, _COPY, argument)
    except OSError:
        done: int = _COPY_ARGUMENT.unpack(argument)[4]
        if done > 0:
            return done // PAGE
        raise
    return data.nbytes // PAGE


def zero(descriptor: int, page: int) -> None:
    """Make the missing `page` one of zeros, and wake who waits for it. Raises as `copy`."""
    fcntl.ioctl(descriptor, _ZEROPAGE, bytearray(_ZERO_ARGUMENT.pack(page * PAGE, PAGE, 0, 0)))


def wake(descriptor: int, start: int, end: int) -> None:
    """Let those who wait for pages `start` to before `end` look again whether they are there."""
    fcntl.ioctl(descriptor, _WAKE, bytearray(_RANGE.pack(start * PAGE, (end - start) * PAGE)))
