"""What a new session's workspace begins with: a directory's files, as recorded writes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sessionkeeper.keeper.writes import WriteJournal

NOT_COPIED = {".git", ".ipynb_checkpoints", "__pycache__", ".venv"}


def seed(journal: WriteJournal, directory: Path) -> None:
    """Record the files below ``directory``; links and special files are left out."""
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if NOT_COPIED & set(relative.parts) or path.is_symlink():
            continue
        if path.is_dir():
            journal.record("mkdir", str(relative), at=time.time())
        elif path.is_file():
            copy = journal.incoming()
            shutil.copyfile(path, copy)
            journal.record("write", str(relative), data=copy, at=path.stat().st_mtime)
