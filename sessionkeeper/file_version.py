"""Which content of a file somebody reads: a download takes a while, and has many pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FileVersion"]


class FileVersion(NamedTuple):
    """A file at one moment. `size` in bytes, `mtime` in Unix seconds; `inode` is None in a
    checkpoint.
    """

    inode: int | None
    size: int
    mtime: float

    @classmethod
    def of(cls, stat: Mapping[str, Any]) -> FileVersion:
        """That of a workspace entry."""
        return cls(stat.get("inode"), int(stat["size"]), float(stat["mtime"]))

    def in_header(self) -> str:
        """As text; `from_header` reads it."""
        return f"{'-' if self.inode is None else self.inode} {self.size} {self.mtime!r}"

    @classmethod
    def from_header(cls, text: str) -> FileVersion:
        """Raises ValueError."""
        inode, size, mtime = text.split()
        return cls(None if inode == "-" else int(inode), int(size), float(mtime))

    def is_in(self, now: FileVersion) -> bool:
        """Whether a file that looks like `now` begins with this one: nothing changed (the inode
        does when a session moves), or something was added to its end, as to a log.
        """
        if (self.size, self.mtime) == (now.size, now.mtime):
            return True
        return self.inode is not None and self.inode == now.inode and self.size < now.size
