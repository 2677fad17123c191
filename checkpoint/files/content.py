"""What a file holds: its data without its holes, and its extended attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

SEGMENT = 128 << 10
"""What a changed byte costs; half as much would double the list that says where all of them are."""


def xattrs_of(where: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes of an open file, or of a path itself; none where there cannot be any."""
    follow = isinstance(where, int)
    found = []
    try:
        names = sorted(os.listxattr(where, follow_symlinks=follow))
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    for name in names:
        try:
            value = os.getxattr(where, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):  # removed meanwhile
                raise
        else:
            found.append((os.fsencode(name), value))
    return tuple(found)


def pieces_of(fd: int, status: os.stat_result) -> Iterator[tuple[int, bytes]]:
    """The data of a file, without its holes, in pieces that end at multiples of `SEGMENT`."""
    sparse = status.st_blocks * 512 < status.st_size
    end = 0
    while end < status.st_size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA) if sparse else end
            end = os.lseek(fd, start, os.SEEK_HOLE) if sparse else status.st_size
        except OSError:  # ENXIO: no data from here on
            return
        at = start
        while at < min(end, status.st_size):
            stop = min(end, status.st_size, (at // SEGMENT + 1) * SEGMENT)
            data = os.pread(fd, stop - at, at)
            if not data:
                return  # cut short meanwhile
            yield at, data
            at += len(data)
