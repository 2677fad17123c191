"""``GET /api/sessionkeeper/export``, for who has the session's token, and
``…/sessions/NAME/export`` for the operator: the session as an archive, while it is made.

``?format=zip`` (else ``tar.gz``); ``?saved=1``: as the newest checkpoint has it, none is made.
An archive that could not be made to its end ends without the end of the chunked transfer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from checkpoint.files import TreeView
from checkpoint.manifest import Manifest
from checkpoint.repository import Repository
from sessionkeeper.archive import FORMATS, Member, write
from sessionkeeper.errors import UsageError
from sessionkeeper.keeper.api import Handler, SessionHandler, Shared
from sessionkeeper.keeper.exporting import Recorded, members
from sessionkeeper.keeper.going_back import NotSaved
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.stored_files import StoredFiles

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Exports that are made at the same time; others wait. Each has a thread, for as long as who asked
takes to read."""

PATIENCE = 120.0
"""Seconds in which who asked takes a piece (256 KiB), or is given up."""

_threads = ThreadPoolExecutor(AT_ONCE, "export")


class _Exporting(Handler):
    """Sends the archive."""

    async def export(self, kept: KeptSession) -> None:
        """Of a session that is kept here."""
        chain = kept.keeper.chain
        saved = self.get_query_argument("saved", "") == "1"
        variables = await kept.inventory.look()
        if not saved and kept.keeper.node is not None and not await kept.keeper.checkpointed():
            why = kept.keeper.status.warnings.get("checkpoint", "the session is on its way")
            hint = "`--saved` exports what the newest checkpoint has"
            raise NotSaved(f"there is no checkpoint of now: {why}", hint=hint)
        recorded = Recorded.after(kept.journal, chain.writes)
        await self._send(
            kept.registration.name, chain.repository, chain.manifest, recorded, variables
        )

    async def export_stored(self, name: str, repository: Repository) -> None:
        """Of one that only the store has. It stays where it is."""
        newest, _ = await asyncio.to_thread(repository.newest_intact)
        why = "only the store has the session; resume it and ask again"
        unknown: dict[str, Any] = {"as_of": None, "kernels": [], "why": why}
        await self._send(name, repository, newest, Recorded([]), unknown)

    async def _send(
        self,
        name: str,
        repository: Repository,
        manifest: Manifest | None,
        recorded: Recorded,
        variables: dict[str, Any],
    ) -> None:
        kind = self.get_query_argument("format", "tar.gz")
        if kind not in FORMATS:
            raise UsageError(f"{kind!r} is no format of an archive; those are {', '.join(FORMATS)}")
        loop = asyncio.get_running_loop()
        facts = {
            "session": name,
            "exported_at": time.time(),
            "checkpoint": manifest.number if manifest else None,
            "checkpointed_at": manifest.created if manifest else None,
            "writes_after_it": len(recorded.writes),
        }

        def take(data: bytes) -> None:
            asyncio.run_coroutine_threadsafe(self._pass_on(data), loop).result(PATIENCE)

        def make() -> None:
            with ExitStack() as stack:
                stack.callback(recorded.close)
                base = None
                if manifest is not None and manifest.tree is not None:
                    reader = stack.enter_context(repository.reader(manifest))
                    home = str(manifest.meta.get("workspace", ""))
                    base = StoredFiles(TreeView(reader, manifest.tree), home)
                found: Iterator[Member] = members(
                    facts, variables, base, recorded, same=kind == "tar.gz"
                )
                write(kind, found, take)

        content = {"tar.gz": "application/gzip", "zip": "application/zip"}
        self.set_header("Content-Type", content[kind])
        self.set_header("Content-Disposition", f'attachment; filename="{name}.{kind}"')
        try:
            await loop.run_in_executor(_threads, make)
        except StreamClosedError:
            log.info("session %s: nobody takes its export any more", name)
        except Exception as error:
            if not self._headers_written:
                raise
            log.warning("session %s: its export ends in the middle: %s", name, error)
            self.detach().close()
        else:
            self.finish()

    async def _pass_on(self, data: bytes) -> None:
        self.write(data)
        await self.flush()


class ExportHandler(_Exporting, SessionHandler):
    async def get(self) -> None:
        await self.export(self.kept)


class OperatorExportHandler(_Exporting):
    def prepare(self) -> Any:
        self.shared.access.check_operator(self.request)

    async def get(self, name: str) -> None:
        kept = self.shared.sessions.find(name)
        if kept is not None:
            await self.export(kept)
        else:
            await self.export_stored(name, await self.shared.sessions.stored(name))


def export_routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    return [
        (r"/api/sessionkeeper/export", ExportHandler, {"shared": shared}),
        (r"/api/sessionkeeper/sessions/([^/]+)/export", OperatorExportHandler, {"shared": shared}),
    ]
