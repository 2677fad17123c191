"""Small files that are whole after any crash: the old content or the new one."""

from __future__ import annotations

import os
from pathlib import Path


def replace(file: Path, content: str) -> None:
    """Have `content` in `file`, on the disk and only for its owner. Raises OSError."""
    part = file.with_name(file.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
        out.flush()
        os.fsync(descriptor)
    part.replace(file)
    # The new name too: after a loss of power the old content must not be back.
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
