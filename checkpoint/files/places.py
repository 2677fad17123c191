"""Directories below a root, reached by paths of any length."""

from __future__ import annotations

import os

_MAX_PATH = 4000  # bytes of a path that one system call takes (PATH_MAX, less a little)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Places:
    """Directories below a root by their path in it, of any length. Nobody else changes them."""

    def __init__(self, root: bytes) -> None:
        self._root = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        self._path, self._fd = b"", os.dup(self._root)

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.close(self._root)

    def at(self, path: bytes) -> int:
        """The directory, open until the next call."""
        if path != self._path:
            opened = self.open(path)
            os.close(self._fd)
            self._path, self._fd = path, opened
        return self._fd

    def open(self, path: bytes) -> int:
        """The directory, for the caller to close."""
        fd = os.dup(self._root)
        while path:
            cut = len(path) if len(path) <= _MAX_PATH else path.rindex(b"/", 0, _MAX_PATH)
            try:
                below = os.open(path[:cut], _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd, path = below, path[cut + 1 :]
        return fd
