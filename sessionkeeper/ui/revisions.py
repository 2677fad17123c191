"""JupyterLab's "revert to checkpoint": one saved copy of a file, in `.ipynb_checkpoints/`.

Jupyter calls these checkpoints. They are plain files in the workspace, laid out as
jupyter_server's `AsyncFileCheckpoints` does, and have nothing to do with a session's checkpoints.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jupyter_server.services.contents.checkpoints import AsyncCheckpoints
from tornado import web
from traitlets import Unicode

from sessionkeeper.ui.files import Stat, WorkspaceFiles

__all__ = ["FileRevisions"]

_ONLY = "checkpoint"


class FileRevisions(AsyncCheckpoints):
    """At most one revision per file, always called "checkpoint"."""

    checkpoint_dir = Unicode(".ipynb_checkpoints", config=True)

    @property
    def _files(self) -> WorkspaceFiles:
        contents: Any = self.parent
        files: WorkspaceFiles = contents.files
        return files

    def _path(self, path: str) -> str:
        parent, _, name = path.strip("/").rpartition("/")
        stem, dot, extension = name.rpartition(".")
        if not stem:
            stem, dot, extension = name, "", ""
        return f"{parent}/{self.checkpoint_dir}/{stem}-{_ONLY}{dot}{extension}".strip("/")

    async def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        copy = self._path(path)
        directory = copy.rpartition("/")[0]
        if await self._files.stat(directory) is None:
            await self._files.mkdir(directory)
        # Not a copy at the gateway: this replaces the old one in one step.
        await self._files.write(copy, await self._files.read(path))
        return _model(await self._files.stat(copy) or {"mtime": 0.0})

    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        await self._existing(checkpoint_id, path)
        await self._files.write(path, await self._files.read(self._path(path)))

    async def rename_checkpoint(self, checkpoint_id: str, old_path: str, new_path: str) -> None:
        await self._existing(checkpoint_id, old_path)
        copy = self._path(new_path)
        directory = copy.rpartition("/")[0]
        if await self._files.stat(directory) is None:
            await self._files.mkdir(directory)
        elif await self._files.stat(copy) is not None:
            await self._files.delete(copy)
        await self._files.rename(self._path(old_path), copy)

    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        await self._existing(checkpoint_id, path)
        await self._files.delete(self._path(path))

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        stat = await self._files.stat(self._path(path))
        return [_model(stat)] if stat and stat["type"] == "file" else []

    async def _existing(self, checkpoint_id: str, path: str) -> None:
        if checkpoint_id != _ONLY or not await self.list_checkpoints(path):
            raise web.HTTPError(404, f"Checkpoint does not exist: {path}@{checkpoint_id}")


def _model(stat: Stat) -> dict[str, Any]:
    return {"id": _ONLY, "last_modified": datetime.fromtimestamp(stat["mtime"], UTC)}
