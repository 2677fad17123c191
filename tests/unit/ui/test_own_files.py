"""What tabs take a file for that the UI server changed, wherever it was killed meanwhile."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from sessionkeeper.ui.own_files import OwnFiles


class Killed(BaseException):
    """The server is gone."""


class Disk:
    """Files of the workspace. Writing ends the server `before` or `after` it is done."""

    def __init__(self) -> None:
        self.content, self.mtime = b"by a tab", 10.0
        self.killed = ""

    async def read(self, path: str) -> bytes:
        return self.content

    async def write(self, path: str, content: bytes) -> dict[str, Any]:
        if self.killed == "before":
            raise Killed
        self.content, self.mtime = content, self.mtime + 1
        if self.killed == "after":
            raise Killed
        return {"mtime": self.mtime}


def files(memory: Path, disk: Any) -> OwnFiles:
    return OwnFiles(memory / "files.json", disk)


AS_SAVED = (10.0, hashlib.sha256(b"by a tab").hexdigest())


@pytest.mark.parametrize("killed", ["", "before", "after"])
async def test_file_looks_as_it_was_saved_wherever_the_server_ended(tmp_path: Path, killed: str):
    disk = Disk()
    one = files(tmp_path, disk)
    await one.write("n.ipynb", disk.mtime, disk.content, b"with one output")
    disk.killed = killed
    try:
        await one.write("n.ipynb", disk.mtime, disk.content, b"with two outputs")
    except Killed:
        disk.killed = ""
        one = files(tmp_path, disk)
    assert await one.looked("n.ipynb", disk.mtime) == AS_SAVED
    await one.write("n.ipynb", disk.mtime, disk.content, b"with three outputs")
    assert await files(tmp_path, disk).looked("n.ipynb", disk.mtime) == AS_SAVED


@pytest.mark.parametrize("killed", ["", "before", "after"])
async def test_file_that_somebody_else_changed_is_not_ours(tmp_path: Path, killed: str):
    disk = Disk()
    disk.killed = killed
    one = files(tmp_path, disk)
    try:
        await one.write("n.ipynb", disk.mtime, disk.content, b"with an output")
    except Killed:
        one = files(tmp_path, disk)
    disk.content, disk.mtime = b"by another program", 20.0
    assert await one.looked("n.ipynb", disk.mtime) is None
    assert await one.looked("other.ipynb", disk.mtime) is None
