"""What tells that a file did not change: inode, size, mtime and ctime.

Packed into few bytes: there is one of each file, also where there are many.
"""

from __future__ import annotations

import os
import struct

Key = bytes

_KEY = struct.Struct("<QQqq")
_TICK_NS = 50_000_000


def key_of(status: os.stat_result) -> Key:
    """The key of a file as it is now."""
    return _KEY.pack(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def inode_of(key: Key) -> int:
    """The inode number in a key."""
    return int(_KEY.unpack(key)[0])


def settled(key: Key, read_ns: int) -> Key | None:
    """`key` if a later change is sure to alter it, else None."""
    return key if _KEY.unpack(key)[3] < read_ns - _TICK_NS else None
