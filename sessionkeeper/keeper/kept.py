"""One of the sessions that this gateway keeps: all that is its own, wired."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from checkpoint.files import TreeView
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from checkpoint.retention import Retention
from gateway.kernels import Kernels
from gateway.rollback import Mode
from gateway.tenants import Tenant
from sessionkeeper.keeper.blobs import Grants
from sessionkeeper.keeper.channels import Activity
from sessionkeeper.keeper.compute import KernelChannels, SessionCompute
from sessionkeeper.keeper.holding import hold, let_go, take_hold
from sessionkeeper.keeper.image import SessionImage
from sessionkeeper.keeper.inventory import Inventory
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.ledger import Ledger
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.seed import seed
from sessionkeeper.keeper.sleep import NotHibernated
from sessionkeeper.keeper.stored_files import StoredFiles
from sessionkeeper.keeper.upkeep import Upkeep
from sessionkeeper.keeper.whereto import Line
from sessionkeeper.keeper.workspace import Workspace
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.policy import idle_left
from sessionkeeper.registration import Memory, Registration

LAST_CHECKPOINT_SECONDS = 10.0

IDLE_LOOKS = 4
"""How often within the limit is looked whether a session is idle."""


@dataclass(frozen=True)
class Around:
    """What the sessions of a gateway share, and the rules that hold for all of them. ``run`` tells
    one ``sessionkeeper up`` from the next.
    """

    nodes: Nodes
    grants: Grants
    line: Line
    on_rollback: Mode
    keep: Retention
    hibernate_after: float | None
    run: str | None
    ledger: Ledger | None = None
    memory: Memory = field(default_factory=Memory)
    tickets: Callable[[str], str] = lambda digest: ""
    """What a node shows to have the image of that digest from this gateway."""


class Whereabouts:
    """The session's place, for its workspace."""

    def __init__(self, keeper: SessionKeeper) -> None:
        self.session = keeper.session
        self._keeper = keeper
        self._reader: Reader | None = None

    async def settled(self) -> Node | None:
        return await self._keeper.settled()

    async def stored_base(self) -> tuple[object, StoredFiles | None, int]:
        chain = self._keeper.chain
        manifest = chain.manifest
        if manifest is None or manifest.tree is None:
            return None, None, 0
        if self._reader is not None:
            self._reader.close()
        self._reader = await asyncio.to_thread(chain.repository.reader, manifest)
        view = await asyncio.to_thread(TreeView, self._reader, manifest.tree)
        home = str(manifest.meta.get("workspace", ""))
        return manifest.number, StoredFiles(view, home), chain.writes


class KeptSession:
    """``home`` is its directory at this gateway; ``sleeps`` is told when it is to hibernate, and
    when not any more.
    """

    def __init__(
        self,
        home: Path,
        registration: Registration,
        repository: Repository,
        around: Around,
        sleeps: Callable[[bool], None],
    ) -> None:
        self.registration = registration
        self.home = home
        self.expires: dict[str, Any] | None = None
        """What of it will be deleted, when and why: see :mod:`sessionkeeper.keeper.expiring`."""
        new = not (home / "incarnation.json").exists()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.journal = WriteJournal(home / "writes")
        self.kernels = Kernels(
            home / "kernels",
            on_rollback=around.on_rollback,
            environment=dict(registration.environment),
        )
        channels = KernelChannels(self.kernels)
        image = SessionImage(registration.image, home / "kernelspecs.json", around.tickets)
        self.keeper = SessionKeeper(
            repository,
            around.nodes,
            channels,
            self.journal,
            around.grants,
            home / "incarnation.json",
            around.run,
            registration,
            around.line,
            sleeps,
            image,
        )
        self._line = around.line
        self._channels = channels
        self._hibernate_after = around.hibernate_after
        self._new = new
        self.compute = SessionCompute(self.kernels, channels, self.keeper, around.nodes, image)
        self.kernels.observer = self.compute
        self.tenant = Tenant(registration.name, self.kernels, self.compute)
        self.workspace = Workspace(Whereabouts(self.keeper), self.journal)
        self.inventory = Inventory(home, self.keeper, self.kernels)
        self.upkeep = Upkeep(self.keeper.chain, self.keeper.status, around.keep)
        self._ledger = around.ledger
        if self._ledger is not None:
            self.keeper.chain.also = partial(self._ledger.of_session, registration.name)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, beginning: Path | None = None) -> None:
        """Go on with the session; a new one's workspace begins with the files in ``beginning``.
        Raises what the store raises.
        """
        for file in self.kernels.damaged:
            self.keeper.status.say(f"a kernel is left out: {file} cannot be read", "error")
        await take_hold(self.keeper.chain)
        self._tasks = [asyncio.create_task(hold(self.keeper.chain))]
        await self.keeper.start()
        if self._ledger is not None and self.keeper.chain.manifest is not None:
            self._ledger.take_over(self.registration.name, self.keeper.chain.manifest.meta)
        if self._new and self.keeper.chain.manifest is None and beginning is not None:
            seed(self.journal, beginning)
        keeping = [self.keeper.run(), self.keeper.fence.watch(), self.upkeep.run()]
        if self._hibernate_after is not None:
            keeping.append(self._hibernate_when_idle(self._hibernate_after))
        self._tasks += [asyncio.create_task(one) for one in keeping]

    @property
    def activity(self) -> Activity:
        """What has happened in its kernels."""
        return self._channels.activity()

    async def hibernate(self) -> None:
        """Have it hibernate; returns when its compute is released. Raises :class:`NotHibernated`;
        it goes on then.
        """
        await self.inventory.note()
        await self.keeper.sleep.fall()

    async def _hibernate_when_idle(self, limit: float) -> None:
        since = time.monotonic()
        while True:
            here, activity, now = self.keeper.node, self._channels.activity(), time.monotonic()
            if here is None:
                since = now  # from when it runs again
            left = idle_left(now, max(since, activity.at), activity.busy or here is None, limit)
            if left > 0:
                await asyncio.sleep(min(left, limit / IDLE_LOOKS))
                continue
            self.keeper.status.say(f"nothing has run for {limit:.0f} s")
            with contextlib.suppress(NotHibernated):  # it has said why
                await self.hibernate()
            since = time.monotonic()

    async def end(self, *, save: bool = True) -> None:
        """End its compute, after a last checkpoint if that is to be saved, and its tasks; nothing
        can be asked of it any more.
        """
        if self.keeper.node is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_CHECKPOINT_SECONDS):
                    await self.keeper.rest(save=save)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._line.forget(self.registration.name)
        if not save:
            await self.keeper.disown()
        if not self.keeper.placed:
            await let_go(self.keeper.chain.repository)
        self.kernels.close()
        self.journal.close()
