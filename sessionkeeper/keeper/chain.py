"""A session's checkpoints as its keeper uses them: the newest good one, and the next."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from checkpoint.errors import CheckpointError, Damaged, SessionDeleted, UnknownFormat
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import DELETED, Repository, Skipped
from sessionkeeper.cpu import Cpu
from sessionkeeper.placement import Needs

WENT_BACK = "went_back"
"""In ``meta`` of a checkpoint that is an earlier one once more: ``{"to", "saved"}``, numbers; what
was before is in ``saved`` (None: nowhere).
"""

GATEWAY = "gateway"
"""In ``meta`` of a checkpoint, who committed it: ``{"id", "where", "since"}``; since when it has
the session (Unix seconds).
"""


class Chain:
    """``gateway`` is the id of who writes here. ``manifest`` is the checkpoint to go on from: the
    newest one, unless that was found damaged. ``portable`` is the newest that a node can open which
    cannot restore the process images of ``manifest``: one with variables beside them, as
    ``manifest`` itself or before it while kernels were busy.
    """

    def __init__(self, repository: Repository, gateway: str = "") -> None:
        self.repository = repository
        self.gateway = gateway
        self.also: Callable[[], Mapping[str, Any]] = dict
        """What else each checkpoint says of the session."""
        self._since: float | None = None
        self.manifest: Manifest | None = None
        self.portable: Manifest | None = None
        self._last = 0
        self._unsure: Manifest | None = None
        self._gone = False

    @property
    def writes(self) -> int:
        """The last recorded workspace write that the checkpoint contains."""
        return int(self.manifest.meta.get("writes", 0)) if self.manifest else 0

    @property
    def over(self) -> int:
        """Incarnations up to this epoch ended when the user went back to the checkpoint, or another
        gateway took the session.
        """
        if self.manifest is not None and (self.foreign or WENT_BACK in self.manifest.meta):
            return self.manifest.epoch
        return 0

    @property
    def foreign(self) -> bool:
        """Whether another gateway committed the checkpoint to go on from."""
        who = self.manifest.meta.get(GATEWAY) if self.manifest is not None else None
        return who is not None and who["id"] != self.gateway

    @property
    def last(self) -> int:
        """The highest number that is known to be taken."""
        return self._last

    @property
    def deleted(self) -> bool:
        """Nothing can be added to it any more."""
        return self._gone or (self.manifest is not None and DELETED in self.manifest.meta)

    @property
    def at_newest(self) -> bool:
        """Whether the checkpoint to go on from is the newest there is."""
        return self.manifest is not None and self.manifest.number == self._last

    async def read(self) -> list[Skipped]:
        """Find the newest intact checkpoint; returns those that were passed over for it."""
        self.manifest, skipped = await asyncio.to_thread(self.repository.newest_intact)
        numbers = await asyncio.to_thread(self.repository.numbers)
        self._last = numbers[-1] if numbers else 0
        self._unsure = None
        if self.manifest is not None and GATEWAY in self.manifest.meta and not self.foreign:
            self._since = float(self.manifest.meta[GATEWAY]["since"])
        else:
            self._since = None
        self.portable = await asyncio.to_thread(self._portable)
        return skipped

    async def commit(self, body: Body, epoch: int, parent: int | None = None) -> Manifest:
        """Make ``body`` the next checkpoint, which goes on from ``parent`` (the one before).

        Raises ``StaleWriter``, and what the store raises.
        """
        await self.settle()
        before = self.manifest.number if self.manifest else None
        now = time.time()
        body = replace(body, meta={**body.meta, **self.also()})
        if self.gateway:
            self._since = self._since or now
            who = {"id": self.gateway, "where": socket.gethostname(), "since": self._since}
            body = replace(body, meta={**body.meta, GATEWAY: who})
        manifest = Manifest(
            number=self._last + 1,
            epoch=epoch,
            parent=before if parent is None else parent,
            created=now,
            body=body,
        )
        self._unsure = manifest
        try:
            await asyncio.to_thread(self.repository.commit, manifest)
        except SessionDeleted:
            self._gone = True
            raise
        self._unsure = None
        self._go_on_from(manifest)
        return manifest

    async def claim(self, epoch: int) -> None:
        """Make the checkpoint to go on from this gateway's, by committing it once more.

        Raises as :meth:`commit`: ``StaleWriter`` when there is a newer one by now.
        """
        assert self.manifest is not None
        meta = {key: said for key, said in self.manifest.meta.items() if key != WENT_BACK}
        await self.commit(replace(self.manifest.body, meta=meta), epoch)

    async def is_overtaken(self) -> bool:
        """Whether somebody else has gone on with the chain. Raises what the store raises."""
        numbers = await asyncio.to_thread(self.repository.numbers)
        # What is being committed here may be in the list already.
        return self._unsure is None and bool(numbers) and numbers[-1] > self._last

    def _go_on_from(self, manifest: Manifest) -> None:
        self.manifest, self._last = manifest, manifest.number
        if not waits_for_variables(manifest):
            self.portable = manifest if _has_variables(manifest) else None

    async def settle(self) -> None:
        """Find out whether the last commit was done, if the store failed before it said so.

        Raises what the store raises.
        """
        unsure = self._unsure
        if unsure is None:
            return
        numbers = await asyncio.to_thread(self.repository.numbers)
        if unsure.number in numbers:
            with contextlib.suppress(Damaged, UnknownFormat):
                if await asyncio.to_thread(self.repository.load, unsure.number) == unsure:
                    if WENT_BACK in unsure.meta:
                        # Those who asked for it were told that it failed, and went on.
                        self._last = unsure.number
                    else:
                        self._go_on_from(unsure)
        self._unsure = None

    async def has_older(self) -> bool:
        """Whether there is a checkpoint to step back to."""
        assert self.manifest is not None
        return await asyncio.to_thread(self._before, self.manifest.number) is not None

    async def step_back(self) -> Manifest | None:
        """The checkpoint cannot be restored: go on from the newest one before it, if there is
        any.
        """
        assert self.manifest is not None
        self.manifest = await asyncio.to_thread(self._before, self.manifest.number)
        self.portable = await asyncio.to_thread(self._portable)
        return self.manifest

    def needs(self) -> Needs:
        """Return what a node must be able to do to restore the checkpoint."""
        if self.manifest is None:
            return Needs()
        engines = {part.engine for part in self.manifest.processes.values()}
        cpu = Cpu.from_json(self.manifest.meta) if "criu" in engines else None
        # Of a checkpoint without kernels too: a file tree is another one in each runtime.
        engine = self.manifest.meta.get("engine")
        size = sum(pack.size for pack in self.manifest.packs)
        return Needs(engine=engine, cpu=cpu, variables=self.portable is not None, size=size)

    def _portable(self) -> Manifest | None:
        manifest = self.manifest
        while manifest is not None and waits_for_variables(manifest):
            manifest = self._before(manifest.number)
        return manifest if manifest is not None and _has_variables(manifest) else None

    def _before(self, number: int) -> Manifest | None:
        for candidate in reversed([n for n in self.repository.numbers() if n < number]):
            with contextlib.suppress(CheckpointError):
                return self.repository.load(candidate)
        return None


def waits_for_variables(manifest: Manifest) -> bool:
    """Whether variables were wanted beside its images, and a kernel was busy: until the next
    checkpoint with them the one before may have to be gone back to. Not where the user went back:
    what was before is another history.
    """
    return manifest.meta.get("variables") == "busy" and WENT_BACK not in manifest.meta


def _has_variables(manifest: Manifest) -> bool:
    return manifest.meta.get("variables") == "saved"
