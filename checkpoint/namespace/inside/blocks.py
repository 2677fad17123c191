"""The directory of a dump, written in place and only where it changed.

Digests of every file's blocks are kept in this process's memory, so that an unchanged array of 200
MB costs reading it once (xxh3: 8 ms measured) and no write at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

BLOCK = 256 * 1024  # bytes; the unit in which a file is compared and rewritten
INDEX = "index.json"


def _digest_function() -> Any:
    """The fastest digest at hand. It compares a session with its own past, nothing hostile."""
    try:
        import xxhash

        return xxhash.xxh3_128_digest
    except (ImportError, AttributeError):  # or a file of the user's
        pass
    try:
        import blake3

        digest = blake3.blake3
        return lambda data: digest(data).digest()
    except (ImportError, AttributeError):
        return lambda data: hashlib.blake2b(data, digest_size=16).digest()


_digest = _digest_function()


class Directory:
    """One dumped directory and what this process knows of its content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._nonce = ""
        self._digests: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._serial = 0
        self._used: set[str] = set()
        self.written = 0
        self.hints: set[Any] = set()  # see `groups.collect`

    def begin(self) -> None:
        """Start a dump: the directory is not loadable from here until :meth:`finish`."""
        index = self.path / INDEX
        try:
            known = json.loads(index.read_text())["nonce"] == self._nonce
        except (OSError, ValueError, KeyError):
            known = False
        if not known:
            self.__init__(self.path)  # type: ignore[misc]
        self.path.mkdir(parents=True, exist_ok=True)
        index.unlink(missing_ok=True)
        self._used = set()
        self.written = 0

    def buffer_name(self, address: int, size: int) -> str:
        """A file name for the memory at ``address`` that stays the same from dump to dump."""
        name = self._names.get((address, size))
        if name is None:
            self._serial += 1
            name = self._names[address, size] = f"b{self._serial:06d}.bin"
        return name

    def write(self, name: str, data: memoryview) -> None:
        """Make file ``name`` hold ``data`` (bytes, one dimension); unchanged blocks stay as they
        are.

        Raises `OSError`; the file is then unknown and not part of the dump.
        """
        self._used.add(name)
        old = self._digests.pop(name, [])
        unchanged = self._sizes.pop(name, None) == len(data)
        new = [_digest(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
        changed = [i for i, digest in enumerate(new) if i >= len(old) or old[i] != digest]
        if changed or not unchanged:
            file = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(file, len(data))
                for i in changed:
                    # A copy: another thread may write to the array between digest and write.
                    copy = bytes(data[i * BLOCK : (i + 1) * BLOCK])
                    new[i] = _digest(copy)
                    done = 0
                    while done < len(copy):  # a full disk takes a part, then says so
                        done += os.pwrite(file, copy[done:], i * BLOCK + done)
                    self.written += done
            finally:
                os.close(file)
        self._digests[name] = new
        self._sizes[name] = len(data)

    def size(self) -> int:
        """Bytes in all files of the dump."""
        return sum(self._sizes.values())

    def finish(self, index: dict[str, Any]) -> None:
        """Remove what the dump no longer holds, then publish ``index``."""
        for entry in os.scandir(self.path):
            if entry.name not in self._used and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)
        self._digests = {n: d for n, d in self._digests.items() if n in self._used}
        self._sizes = {n: s for n, s in self._sizes.items() if n in self._used}
        self._names = {k: n for k, n in self._names.items() if n in self._used}
        self._nonce = os.urandom(8).hex()
        write_json(self.path / INDEX, {**index, "nonce": self._nonce})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace ``path`` as a whole by ``content`` as JSON."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(content, indent=0))
    os.replace(temporary, path)
