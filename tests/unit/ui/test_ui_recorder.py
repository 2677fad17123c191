"""What comes while a notebook is being written is in the next write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_ui_runs import Kernel, notebook

from sessionkeeper.ui import recorder as module
from sessionkeeper.ui.recorder import Recorder


class Files:
    """One notebook. ``meanwhile`` is called in the middle of the first write."""

    def __init__(self, content: dict[str, Any], meanwhile: Any) -> None:
        self.content = json.dumps(content).encode()
        self.meanwhile = [meanwhile]
        self.writes = 0

    async def stat(self, path: str) -> dict[str, Any]:
        return {"mtime": float(self.writes)}

    async def read(self, path: str) -> bytes:
        return self.content

    async def write(self, path: str, content: bytes) -> dict[str, Any]:
        while self.meanwhile:
            self.meanwhile.pop()()
        self.content, self.writes = content, self.writes + 1
        return await self.stat(path)


class Notary:
    def check_signature(self, notebook: Any) -> bool:
        return False


class Follower:
    """As the recorder sees it."""

    kernel_id, gone = "k", False

    def __init__(self, kernel: Kernel) -> None:
        self.runs = kernel.runs

    def note(self) -> None:
        pass


async def test_display_that_a_later_cell_changes_during_a_write_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sessions(*_: Any) -> list[dict[str, Any]]:
        return [{"type": "notebook", "path": "one.ipynb", "kernel": {"id": "k"}}]

    monkeypatch.setattr(module, "ask", sessions)
    kernel = Kernel()
    shown = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}
    kernel.begin("a")
    kernel.say("a", "display_data", **shown)
    kernel.end("a")

    def changes() -> None:
        kernel.say("b", "update_display_data", **{**shown, "data": {"text/plain": "2"}})

    files: Any = Files({**notebook("a"), "metadata": {}}, changes)
    follower: Any = Follower(kernel)
    await Recorder(tmp_path, files, Notary())._write(follower)
    cell = json.loads(files.content)["cells"][0]
    assert cell["outputs"][0]["data"] == {"text/plain": ["2"]}
    assert files.writes == 2
    assert kernel.run("a").in_file
