"""The one file lock that CRIU does not bring back.

CRIU gives a process its POSIX locks, then opens and closes the files that it has mapped; and when a
process closes a file, all its POSIX locks on it end (`fcntl(2)`). Of SQLite's databases in WAL mode
that takes the read lock on byte 128 of `<database>-shm` (`os_unix.c`, `UNIX_SHM_DMS`): the next
process that opens the database finds nobody there and clears the file under the first one's feet.

That lock is held from the opening of the file to its closing. So is a lock of the open file
description (OFD), which CRIU brings back as it is; therefore the former becomes the latter. Other
locks on such files last as long as a transaction, and a process that made them could not end them.
"""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.criu.identity import described_files, image_messages

_FILELOCKS = "filelocks.img"
_POSIX, _OFD = b"\x08\x01", b"\x08\x04"  # field 1 of file_lock_entry (CRIU images/file-lock.proto)
_READ = 0
_KEPT = (128, 1)


def keep_locks(directory: str | os.PathLike[str]) -> None:
    """Change the dump in `directory` so that the lock above outlives it. Raises `InvalidImage`
    and `OSError`.
    """
    directory = Path(directory)
    path = directory / _FILELOCKS
    if not path.exists():
        return
    mapped = {fd for fd, name in described_files(directory) if name.endswith(b"-shm")}
    data = bytearray(path.read_bytes())
    for at, lock in image_messages(path):
        kept = lock.get(2) == _READ and (lock.get(5), lock.get(6)) == _KEPT
        if kept and lock.get(4) in mapped and data[at : at + 2] == _POSIX:
            data[at : at + 2] = _OFD
    path.write_bytes(data)
