"""The session's workspace as the UI sees it: one, wherever the session is.

While a node has the session, operations go to its agent. Without compute they are done on the
newest checkpoint with the recorded writes on top. While the session is on its way they wait:
both views would be of another moment.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

from checkpoint.blobs import BlobStore, Buffer
from checkpoint.errors import NotFound
from gateway.errors import AgentGone, GatewayError, RemoteError
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.errors import DiskFull, Unavailable
from sessionkeeper.file_version import FileVersion
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.stored import Base, Read, Stat, StoredWorkspace
from sessionkeeper.keeper.writes import Operation, Write, WriteJournal

log = logging.getLogger(__name__)

PIECE = 1 << 20
RETRY_AFTER = 0.2
"""Seconds until a node that could not do a write is asked again."""

PATIENCE = 15.0
"""Seconds an operation waits for a session that is on its way."""


class Whereabouts(Protocol):
    """Where the session is, as far as its files are concerned."""

    session: str

    async def settled(self) -> Node | None:
        """Return the node that has the session, None when there is no compute; waits while it is
        on its way.
        """
        ...

    async def stored_base(self) -> tuple[object, Base | None, int]:
        """Return the newest checkpoint's files: what identifies it, the files, and the writes it
        contains.
        """
        ...


class Workspace:
    """File operations on one session. Paths are relative to its workspace.

    Raises :class:`FileRefused`, :class:`Unavailable` (on its way for too long) and
    :class:`DiskFull`.
    """

    def __init__(self, where: Whereabouts, journal: WriteJournal) -> None:
        self._where = where
        self.journal = journal
        self._changing = asyncio.Lock()
        self._viewing = asyncio.Lock()

    async def stat(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._read("stat", path)
        return found

    async def list(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._read("list", path)
        return found

    async def read(
        self, path: str, start: int, length: int, version: FileVersion
    ) -> AsyncIterator[bytes]:
        """Yield ``length`` bytes from ``start`` in pieces, all of ``version``: raises
        :class:`FileRefused` (``changed``) in place of the last one where they may not be.
        """
        while length > 0:
            piece = await self._read("read", path, start=start, length=min(length, PIECE))
            start, length = start + len(piece), length - len(piece)
            if not piece or (length <= 0 and not version.is_in(await self.version(path))):
                raise FileRefused(f"{path}: changed while it was read", "changed", hint="try again")
            yield piece

    async def version(self, path: str) -> FileVersion:
        """Return what is at ``path`` now."""
        return FileVersion.of(await self.stat(path))

    async def change(
        self,
        operation: Operation,
        path: str,
        *,
        to: str | None = None,
        recursive: bool = False,
        data: Path | None = None,
    ) -> dict[str, Any]:
        """Do a write and return the entry's new stat (``{}`` after a delete). When it returns, it
        is kept for good.
        """
        async with self._changing:
            node = await self._settled()
            try:
                write = self.journal.record(
                    operation, path, to=to, recursive=recursive, data=data, at=time.time()
                )
            except OSError as error:
                raise DiskFull(f"{path} could not be recorded: {error.strerror}") from error
            try:
                return await self._apply(node, write)
            except FileRefused:
                self.journal.void(write.number)
                raise

    async def _apply(self, node: Node | None, write: Write) -> dict[str, Any]:
        if node is not None:
            try:
                return await self._apply_on(node, write)
            except (NodeLost, Unavailable):
                # It is recorded: whoever opens the session next does it.
                return {"name": write.path.rpartition("/")[2], "type": "file", "pending": True}
        async with self._viewing:
            view = await self._view(before=write.number)
            await asyncio.to_thread(view.apply, write)
            if write.operation == "delete":
                return {}
            return _json(await asyncio.to_thread(view.stat, write.to or write.path))

    async def _apply_on(self, node: Node, write: Write) -> dict[str, Any]:
        """Do it on the node, before anything that comes after it; the node does it once."""
        while True:
            try:
                found: dict[str, Any] = await self._ask(node, "apply", write=vars(write))
                return found
            except GatewayError as error:
                log.info("write %d is not on %s yet: %s", write.number, node.name, error)
                await asyncio.sleep(RETRY_AFTER)

    async def _read(self, what: str, path: str, **arguments: int) -> Any:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            node = await self._settled()
            if node is None:
                async with self._viewing:
                    view = await self._view()
                    found = await asyncio.to_thread(getattr(view, what), path, *arguments.values())
                if isinstance(found, Stat):
                    return _json(found)
                return found if isinstance(found, bytes) else [_json(one) for one in found]
            try:
                found = await self._ask(node, what, path=path, **arguments)
                return base64.b64decode(found) if what == "read" else found
            except (NodeLost, Unavailable, AgentGone) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(str(error)) from error

    async def _ask(self, node: Node, what: str, **arguments: Any) -> Any:
        try:
            return await node.call(
                f"files.{what}", {"session": self._where.session, **arguments}, 600.0
            )
        except RemoteError as error:
            if error.code == "not_hosted":
                await asyncio.sleep(0.05)  # the session has just left that node
                raise Unavailable(str(error), hint=error.hint) from error
            if error.retryable:
                raise
            raise FileRefused(str(error), error.code, hint=error.hint or None) from error

    async def _settled(self) -> Node | None:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._where.settled()
        except TimeoutError:
            raise Unavailable("the session is still on its way to another node") from None

    async def _view(self, before: int | None = None) -> StoredWorkspace:
        """Look anew, as the session may have been on a node since; what was read of an earlier
        view is closed. With the recorded writes below the number ``before``.
        """
        _, base, contained = await self._where.stored_base()
        writes = [w for w in self.journal.after(contained) if before is None or w.number < before]
        return await asyncio.to_thread(StoredWorkspace, base, writes, self._data)

    def _data(self, write: Write) -> Read:
        path = self.journal.data(write.number)

        def read(start: int, length: int) -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)

        return read


class StoreWithWrites:
    """A session's blob store in which the bytes of recorded writes can be read too, as
    ``writes/NUMBER``.
    """

    def __init__(self, store: BlobStore, journal: WriteJournal) -> None:
        self._store = store
        self._journal = journal

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if not key.startswith("writes/"):
            return self._store.get(key, start, length)
        try:
            with self._journal.data(int(key.removeprefix("writes/"))).open("rb") as file:
                file.seek(start)
                return file.read(-1 if length is None else length)
        except (ValueError, FileNotFoundError):
            raise NotFound(key) from None

    def put(self, key: str, data: Buffer) -> None:
        self._store.put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._store.create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)


def _json(stat: Stat) -> dict[str, Any]:
    return {
        "name": stat.name,
        "type": stat.kind,
        "size": stat.size,
        "mtime": stat.mtime,
        "created": stat.mtime,
        "writable": stat.writable,
    }
