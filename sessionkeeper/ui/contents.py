"""JupyterLab's files: a Jupyter contents manager over the session's workspace.

Models, formats and refusals are those of jupyter_server's `AsyncFileContentsManager` and
`AsyncLargeFileManager`; what differs is that there is no trash, and that a session on the move
is waited for.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from base64 import decodebytes, encodebytes
from datetime import UTC, datetime
from functools import partial
from typing import Any

import nbformat
from jupyter_server.services.contents.manager import AsyncContentsManager, copy_pat
from tornado import web
from traitlets import Bool, Instance, Type, Unicode, default

from sessionkeeper.ui.address import gateway_address
from sessionkeeper.ui.downloads import WorkspaceFilesHandler
from sessionkeeper.ui.files import Stat, WorkspaceFiles
from sessionkeeper.ui.recorder import Recorder
from sessionkeeper.ui.revisions import FileRevisions

__all__ = ["WorkspaceContents"]

Model = dict[str, Any]


class WorkspaceContents(AsyncContentsManager):
    """The contents API on the workspace. Errors are `tornado.web.HTTPError` with words."""

    files = Instance(WorkspaceFiles)
    recorder = Instance(Recorder, allow_none=True, help="Knows what cells showed meanwhile")
    checkpoints_class = Type(FileRevisions, config=True)
    files_handler_class = Type(WorkspaceFilesHandler, config=True)
    hash_algorithm = Unicode("sha256", config=True, help="hashlib's name of the content hash")
    delete_to_trash = Bool(False, help="There is none; JupyterLab reads this to word its question")
    always_delete_dir = Bool(False, config=True, help="Delete directories that are not empty")

    @default("files")
    def _default_files(self) -> WorkspaceFiles:
        return WorkspaceFiles(*gateway_address())

    def info_string(self) -> str:
        return "Serving the session's workspace, through the gateway"

    # What there is

    async def dir_exists(self, path: str) -> bool:
        return not path.strip("/") or await self._type(path) == "directory"

    async def file_exists(self, path: str) -> bool:
        return await self._type(path) == "file"

    async def exists(self, path: str) -> bool:
        return not path.strip("/") or await self._type(path) in ("file", "directory")

    async def is_hidden(self, path: str) -> bool:
        return any(part.startswith(".") for part in path.split("/"))

    async def get_kernel_path(self, path: str, model: Model | None = None) -> str:
        """The directory that a kernel for the notebook `path` starts in."""
        return path if await self.dir_exists(path) else path.strip("/").rpartition("/")[0]

    async def _type(self, path: str) -> str | None:
        stat = await self.files.stat(path)
        return stat["type"] if stat else None

    # Reading

    async def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        require_hash: bool = False,
    ) -> Model:
        path = path.strip("/")
        self._refuse_hidden(path, 404, f"file or directory {path!r} does not exist")
        stat = await self.files.stat(path)
        if stat is None or stat["type"] not in ("file", "directory"):
            raise web.HTTPError(404, f"No such file or directory: {path}")
        is_directory = stat["type"] == "directory"
        if is_directory and type not in (None, "directory"):
            raise web.HTTPError(400, f"{path} is a directory, not a {type}", reason="bad type")
        if type == "directory" and not is_directory:
            raise web.HTTPError(400, f"{path} is not a directory", reason="bad type")

        model = self._model(path, stat)
        if is_directory:
            if content:
                model.update(format="json", content=await self._listing(path))
        else:
            if type is not None:
                model["type"] = type
            if model["type"] == "notebook":
                model["mimetype"] = None
            if content or require_hash:
                raw = await self.files.read(path)
                if require_hash:
                    digest = await asyncio.to_thread(hashlib.new, self.hash_algorithm, raw)
                    model.update(hash=digest.hexdigest(), hash_algorithm=self.hash_algorithm)
                if content and model["type"] == "notebook":
                    await self._add_notebook(model, raw)
                elif content:
                    await self._add_bytes(model, raw, format)
            await self._hide_own(model, stat)
        self.emit(data={"action": "get", "path": path})
        return model

    def _model(self, path: str, stat: Stat) -> Model:
        name = path.rpartition("/")[2]
        kind = stat["type"]
        if kind == "file" and name.endswith(".ipynb"):
            kind = "notebook"
        return {
            "name": name,
            "path": path,
            "last_modified": datetime.fromtimestamp(stat["mtime"], UTC),
            "created": datetime.fromtimestamp(stat["created"], UTC),
            "content": None,
            "format": None,
            "mimetype": mimetypes.guess_type(name)[0] if kind == "file" else None,
            "size": None if kind == "directory" else stat["size"],
            "writable": stat["writable"],
            "hash": None,
            "hash_algorithm": None,
            "type": kind,
        }

    async def _hide_own(self, model: Model, stat: Stat) -> None:
        """Outputs that this server wrote are no change that a tab must ask its user about."""
        recorder = self.recorder
        before = recorder and await recorder.looks_like(model["path"], stat["mtime"])
        if before:
            model["last_modified"] = datetime.fromtimestamp(before[0], UTC)
            if model["hash"] is not None and model["hash_algorithm"] == "sha256":
                model["hash"] = before[1]

    async def _listing(self, path: str) -> list[Model]:
        return [
            self._model(f"{path}/{entry['name']}".strip("/"), entry)
            for entry in await self.files.list(path)
            if entry["type"] in ("file", "directory")
            and self.should_list(entry["name"])
            and (self.allow_hidden or not entry["name"].startswith("."))
        ]

    async def _add_notebook(self, model: Model, raw: bytes) -> None:
        invalid: Model = {}
        try:
            # Large notebooks take a second to parse: not in the event loop.
            notebook = await asyncio.to_thread(
                partial(nbformat.reads, as_version=4, capture_validation_error=invalid),
                raw.decode("utf-8"),
            )
        except Exception as error:  # nbformat raises whatever the broken JSON leads it to
            raise web.HTTPError(400, f"Unreadable Notebook: {model['path']} {error!r}") from error
        self.mark_trusted_cells(notebook, model["path"])
        if self.recorder is not None:
            await self.recorder.opening(model["path"], notebook)
            notebook = nbformat.from_dict(notebook)
        model.update(content=notebook, format="json")
        self.validate_notebook_model(model, invalid)

    async def _add_bytes(self, model: Model, raw: bytes, format: str | None) -> None:
        content: str | None = None
        if format in (None, "text"):
            try:
                content = raw.decode("utf-8")
                format = "text"
            except UnicodeError as error:
                if format == "text":
                    raise web.HTTPError(
                        400, f"{model['path']} is not UTF-8 encoded", reason="bad format"
                    ) from error
        if content is None:
            content = (await asyncio.to_thread(encodebytes, raw)).decode("ascii")
            format = "base64"
        if model["mimetype"] is None:
            model["mimetype"] = "text/plain" if format == "text" else "application/octet-stream"
        model.update(content=content, format=format)

    # Writing

    async def save(self, model: Model, path: str = "") -> Model:
        path = path.strip("/")
        chunk = model.get("chunk")
        if chunk in (None, 1):
            self.run_pre_save_hooks(model=model, path=path)
        kind = model.get("type")
        if kind is None:
            raise web.HTTPError(400, "No file type provided")
        if kind not in ("notebook", "file", "directory"):
            raise web.HTTPError(400, f"Unhandled contents type: {kind}")
        if chunk is not None and kind != "file":
            raise web.HTTPError(400, f'File type "{kind}" is not supported for large file transfer')
        if "content" not in model and kind != "directory":
            raise web.HTTPError(400, "No file content provided")
        self._refuse_hidden(path, 400, f"Cannot create file or directory {path!r}")

        message = None
        if kind == "directory":
            await self._save_directory(path)
        elif kind == "notebook" and self.recorder is not None:
            async with self.recorder.saving(path, model["content"]):
                message = await self._save_notebook(model, path)
        elif kind == "notebook":
            message = await self._save_notebook(model, path)
        else:
            raw = await asyncio.to_thread(_decode, model, path)
            write = self.files.write if chunk in (None, 1) else self.files.append
            await write(path, raw)

        saved = await self.get(path, content=False, type=kind if kind == "notebook" else None)
        if message:
            saved["message"] = message
        if chunk in (None, -1):
            self.run_post_save_hooks(model=saved, os_path=path)
        self.emit(data={"action": "save", "path": path})
        return saved

    async def _save_directory(self, path: str) -> None:
        kind = await self._type(path) if path else "directory"
        if kind is None:
            await self.files.mkdir(path)
        elif kind != "directory":
            raise web.HTTPError(400, f"Not a directory: {path}")

    async def _save_notebook(self, model: Model, path: str) -> str | None:
        """Write it even if it is invalid, as JupyterLab expects; the words say what is wrong."""
        invalid: Model = {}
        notebook = nbformat.from_dict(model["content"])
        self.check_and_sign(notebook, path)
        write = partial(
            nbformat.writes, version=nbformat.NO_CONVERT, capture_validation_error=invalid
        )
        try:
            text = await asyncio.to_thread(write, notebook)
        except Exception as error:  # nbformat raises whatever the broken notebook leads it to
            raise web.HTTPError(400, f"{path} is no notebook: {error!r}") from error
        text = text if text.endswith("\n") else text + "\n"
        await self.files.write(path, text.encode("utf-8"))
        # JupyterLab's "revert" wants one to exist for every notebook.
        if not await self.checkpoints.list_checkpoints(path):
            await self.create_checkpoint(path)
        self.validate_notebook_model(model, invalid)
        return model.get("message")

    async def delete_file(self, path: str) -> None:
        path = path.strip("/")
        self._refuse_hidden(path, 400, f"Cannot delete file or directory {path!r}")
        kind = await self._type(path)
        if kind is None:
            raise web.HTTPError(404, f"File or directory does not exist: {path}")
        if kind == "directory" and not self.always_delete_dir:
            names = {entry["name"] for entry in await self.files.list(path)}
            if names - {FileRevisions.checkpoint_dir.default_value}:
                raise web.HTTPError(
                    400, f"Directory {path} not empty. Delete what is in it first; there is no undo"
                )
        await self.files.delete(path, recursive=kind == "directory")

    async def rename_file(self, old_path: str, new_path: str) -> None:
        old_path, new_path = old_path.strip("/"), new_path.strip("/")
        if old_path == new_path:
            return
        for path in (old_path, new_path):
            self._refuse_hidden(path, 400, f"Cannot rename file or directory {old_path!r}")
        try:
            await self.files.rename(old_path, new_path)
        except web.HTTPError as error:
            if error.status_code == 409:
                raise web.HTTPError(409, f"File already exists: {new_path}") from error
            raise

    async def copy(self, from_path: str, to_path: str | None = None) -> Model:
        """Copy at the gateway, without moving the bytes through here.

        Into the directory `to_path` (default: where it is) under a free name, or to `to_path`.
        """
        source = from_path.strip("/")
        parent, _, name = source.rpartition("/")
        kind = await self._type(source)
        if kind is None:
            raise web.HTTPError(404, f"No such file or directory: {source}")
        target = parent if to_path is None else to_path.strip("/")
        if await self.dir_exists(target):
            free = await self.increment_filename(copy_pat.sub(".", name), target, insert="-Copy")
            target = f"{target}/{free}".strip("/")
        elif not await self.dir_exists(target.rpartition("/")[0]):
            raise web.HTTPError(404, f"No such parent directory: {target} to copy file in")
        elif await self.exists(target):
            await self.files.delete(target)  # a copy onto a file replaces it
        if kind != "directory":
            await self.files.copy(source, target)
        elif f"{target}/".startswith(f"{source}/"):
            raise web.HTTPError(400, f"{source} cannot be copied into itself")
        else:
            await self._copy_directory(source, target)
        self.emit(data={"action": "copy", "path": target, "source_path": from_path})
        return await self.get(target, content=False)

    async def _copy_directory(self, source: str, target: str) -> None:
        await self.files.mkdir(target)
        for entry in await self.files.list(source):
            pair = f"{source}/{entry['name']}", f"{target}/{entry['name']}"
            if entry["type"] == "directory":
                await self._copy_directory(*pair)
            elif entry["type"] == "file":
                await self.files.copy(*pair)

    def _refuse_hidden(self, path: str, status: int, message: str) -> None:
        if not self.allow_hidden and any(part.startswith(".") for part in path.split("/")):
            raise web.HTTPError(status, message)


def _decode(model: Model, path: str) -> bytes:
    """The bytes that a model of type "file" stands for."""
    form, content = model.get("format"), model["content"]
    if form not in ("text", "base64"):
        raise web.HTTPError(400, "Must specify format of file contents as 'text' or 'base64'")
    try:
        if form == "text":
            return bytes(content.encode("utf-8"))
        return decodebytes(content.encode("ascii"))
    except Exception as error:
        raise web.HTTPError(400, f"Encoding error saving {path}: {error}") from error
