"""``/api/sessionkeeper/checkpoints...``: what a session's user does with its checkpoints while it
runs: list, name, go back, fork, have old ones cleared away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tornado.web import RequestHandler

from checkpoint import tags
from checkpoint.fork import fork
from checkpoint.manifest import Manifest
from checkpoint.packs import PackRef
from checkpoint.repository import Repository
from sessionkeeper.errors import UsageError
from sessionkeeper.keeper.api import SessionHandler, Shared
from sessionkeeper.keeper.chain import WENT_BACK
from sessionkeeper.keeper.going_back import NotSaved, kernels_of


class CheckpointHandler(SessionHandler):
    """One that has to do with the session's repository."""

    @property
    def repository(self) -> Repository:
        return self.keeper.chain.repository

    def wish(self) -> dict[str, Any]:
        """The JSON object of the request. Raises :class:`UsageError`."""
        try:
            found = json.loads(self.request.body or b"{}")
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UsageError("the request is not a JSON object")
        return found


class ListHandler(CheckpointHandler):
    async def get(self) -> None:
        found = await asyncio.to_thread(checkpoints, self.repository)
        self.finish({"session": self.keeper.session, "checkpoints": found})


class TagHandler(CheckpointHandler):
    """A name for a checkpoint: of that ``number``, or of now, which is made for it."""

    async def put(self, name: str) -> None:
        number = self.wish().get("number")
        if number is None and self.keeper.node is not None and not await self.keeper.checkpointed():
            why = self.keeper.status.warnings.get("checkpoint", "the session is on its way")
            raise NotSaved(f"there is no checkpoint of now to be called {name}: {why}", hint="")
        given = await _usable(tags.tag, self.repository, name, number)
        self.finish({"tag": name, "number": given})

    async def delete(self, name: str) -> None:
        await _usable(tags.untag, self.repository, name)
        self.finish({"tag": name})


class RestoreHandler(CheckpointHandler):
    async def post(self) -> None:
        wish = self.wish()
        at = str(wish.get("at", ""))
        done = await self.keeper.going_back.ask(at, discard=bool(wish.get("discard")))
        node = await self.keeper.settled()
        self.finish({**asdict(done), "node": node.name if node is not None else None})


class ForkHandler(CheckpointHandler):
    async def post(self) -> None:
        wish = self.wish()
        at, new = str(wish.get("at", "")), str(wish.get("as", ""))
        which = {"number": int(at)} if at.isdecimal() else {"tag": at or None}
        made = await _usable(fork, self.repository, new, *self.shared.masters, **which)
        self.finish({"session": made.session_id, "shares_packs_of": made.pool})


class PruneHandler(CheckpointHandler):
    async def post(self) -> None:
        self.finish(asdict(await self.kept.upkeep.now()))


def checkpoints(repository: Repository) -> list[dict[str, Any]]:
    """Every checkpoint of a session, oldest first: ``number``, ``tags``, and ``created`` (Unix
    seconds), ``bytes`` in all, ``added_bytes`` that the one before has not, ``kernels`` by the name
    that a user knows, ``went_back`` (the number it repeats); or the ``error`` that keeps it from
    being read. Blocks.
    """
    named = tags.numbers(repository.blobs, repository.keys, repository.session_id)
    found: list[dict[str, Any]] = []
    before: frozenset[PackRef] = frozenset()
    for number, manifest in repository.load_all(repository.numbers()):
        entry: dict[str, Any] = {"number": number, "tags": named.get(number, [])}
        if isinstance(manifest, Manifest):
            entry |= {
                "created": manifest.created,
                "bytes": sum(ref.size for ref in manifest.packs),
                "added_bytes": sum(ref.size for ref in manifest.packs if ref not in before),
                "kernels": [
                    _called(kernel_id, record) for kernel_id, record in kernels_of(manifest).items()
                ],
                "went_back": manifest.meta.get(WENT_BACK, {}).get("to"),
            }
            before = frozenset(manifest.packs)
        else:
            entry["error"] = str(manifest)
        found.append(entry)
    return found


def checkpoint_routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    handlers: dict[str, type[RequestHandler]] = {
        "checkpoints": ListHandler,
        "checkpoints/restore": RestoreHandler,
        "checkpoints/fork": ForkHandler,
        "checkpoints/prune": PruneHandler,
        "checkpoints/tags/([^/]+)": TagHandler,
    }
    return [
        (rf"/api/sessionkeeper/{path}", handler, {"shared": shared})
        for path, handler in handlers.items()
    ]


async def _usable(work: Any, *arguments: Any, **options: Any) -> Any:
    """Do what blocks; a name that is none is the mistake of who gave it."""
    try:
        return await asyncio.to_thread(work, *arguments, **options)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _called(kernel_id: str, record: Mapping[str, Any]) -> str:
    return str(record["notebook"] or f"{record['name']} {kernel_id[:8]}")
