"""The gateway's process: kernel gateway API, agents, blob access for nodes, and the keeper."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
from pathlib import Path

import uvloop
from tornado.httpserver import HTTPServer

from checkpoint.blobs import open_store, probe
from checkpoint.errors import CheckpointError, SessionDeleted, StoreError
from checkpoint.files import TreeView
from checkpoint.keys import find_master_keys
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from gateway.app import Application, listen, make_app
from gateway.health import Readiness, journal_readiness
from gateway.kernels import Kernels
from gateway.options import Options
from gateway.rollback import Mode
from gateway.starting import prespawn
from sessionkeeper.errors import PortTaken, StoreUnusable
from sessionkeeper.keeper.agents import NodeAgents, NodeConnection
from sessionkeeper.keeper.api import Shared, routes
from sessionkeeper.keeper.blobs import BlobHandler, Grants
from sessionkeeper.keeper.checkpoint_api import checkpoint_routes
from sessionkeeper.keeper.compute import KernelChannels, SessionCompute
from sessionkeeper.keeper.holding import hold, let_go, take_hold
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.metrics import SessionCollector
from sessionkeeper.keeper.nodes import Node, Nodes
from sessionkeeper.keeper.notices import Notices
from sessionkeeper.keeper.seed import seed
from sessionkeeper.keeper.stored_files import StoredFiles
from sessionkeeper.keeper.upkeep import Upkeep
from sessionkeeper.keeper.workspace import Workspace
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.settings import GatewaySettings
from sessionkeeper.up.ready import announce

log = logging.getLogger(__name__)

LAST_CHECKPOINT_SECONDS = 10.0

RUN = "SESSIONKEEPER_RUN"
"""In the environment: which `sessionkeeper up` started this process."""


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


class Gateway:
    """Everything in the process, wired."""

    def __init__(self, settings: GatewaySettings, repository: Repository, options: Options) -> None:
        self._settings = settings
        self._options = options
        state = settings.state
        base = state / "sessions" / settings.session
        self.new = not base.exists()
        base.mkdir(parents=True, exist_ok=True)
        self.journal = WriteJournal(base / "writes")
        on_rollback: Mode = "stop" if settings.on_rollback == "stop" else "replay"
        self.kernels = Kernels(_kernels(state, base), on_rollback=on_rollback)
        self.nodes = Nodes(
            settings.lease_seconds,
            lambda node: self.keeper.node_changed(node),
            Notices(state / "notices.json"),
        )
        self.grants = Grants()
        channels = KernelChannels(self.kernels)
        self.keeper = SessionKeeper(
            repository,
            self.nodes,
            channels,
            self.journal,
            self.grants,
            base / "incarnation.json",
            os.environ.get(RUN),
        )
        self.compute = SessionCompute(self.kernels, channels, self.keeper, self.nodes)
        self.kernels.observer = self.compute
        self.workspace = Workspace(Whereabouts(self.keeper), self.journal)
        self.upkeep = Upkeep(self.keeper.chain, self.keeper.status, settings.keep)
        masters = find_master_keys(settings.master_key)
        shared = Shared(
            settings.token, self.keeper, self.nodes, self.workspace, self.upkeep, masters
        )
        agents = {"agents": NodeAgents(self.nodes, self.kernels), "token": settings.agent_token}
        self.app = make_app(
            self.kernels,
            self.compute,
            settings.token,
            extra_handlers=[
                (r"/agents", NodeConnection, agents),
                (r"/blobs/(.*)", BlobHandler, {"grants": self.grants}),
                *routes(shared),
                *checkpoint_routes(shared),
            ],
            options=options,
            readiness=self._readiness,
            collectors=[SessionCollector(self.keeper.status, self.nodes)],
        )

    def _readiness(self) -> Readiness:
        found, status = journal_readiness(self.kernels.directory), self.keeper.status
        if self.keeper.fence.lost:
            found.reasons["session"] = "another gateway has it"
        elif status.state == "failed":
            found.notes["session"] = "no node can run it"
        if not any(node.ready for node in self.nodes):
            found.notes["nodes"] = "no node is ready"
        # Their words may name a user's files, and who asks here has shown no token.
        found.notes |= dict.fromkeys(status.warnings, "see `sessionkeeper status`")
        return found

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; then take a last checkpoint and return."""
        settings = self._settings
        for file in self.kernels.damaged:
            self.keeper.status.say(f"a kernel is left out: {file} cannot be read", "error")
        await take_hold(self.keeper.chain)
        tasks = [asyncio.create_task(hold(self.keeper.chain))]
        await self.keeper.start()
        if self.new and self.keeper.chain.manifest is None and settings.seed is not None:
            seed(self.journal, settings.seed)
        hosts = [settings.host, *([settings.agent_host] if settings.agent_host else [])]
        servers = [_listen(self.app, settings.port, host) for host in dict.fromkeys(hosts)]
        keeping = (self.keeper.run(), self.keeper.fence.watch(), self.upkeep.run())
        tasks += [asyncio.create_task(one) for one in keeping]
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if self._options.prespawn_count:
            spawning = prespawn(self.kernels, self.compute, self._options)
            tasks.append(asyncio.create_task(spawning))
        announce(settings.ready_fd)
        log.info("the gateway listens on port %d of %s", settings.port, ", ".join(hosts))
        await stop.wait()
        if self.keeper.node is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_CHECKPOINT_SECONDS):
                    await self.keeper.rest()
        for task in tasks:
            task.cancel()
        if not self.keeper.placed:
            await let_go(self.keeper.chain.repository)
        for server in servers:
            server.stop()
        self.kernels.close()
        self.journal.close()


def _kernels(state: Path, base: Path) -> Path:
    """Where a session's kernels are recorded. Those of the one session that a state directory used
    to have were beside it.
    """
    place, before = base / "kernels", state / "kernels"
    if before.exists() and base.name == "default" and not place.exists():
        before.rename(place)
    return place


def run(settings: GatewaySettings, options: Options | None = None) -> None:
    """Serve until SIGTERM. Raises :class:`StoreUnusable`, :class:`PortTaken`, and key errors."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    repository = open_repository(settings.store, settings.master_key, settings.session)

    async def main() -> None:
        await Gateway(settings, repository, options or Options()).serve()

    uvloop.run(main())


def open_repository(store_url: str, master_key: Path, session: str) -> Repository:
    """Open the session's repository. Raises :class:`StoreUnusable` for a store that will not do."""
    try:
        store = open_store(store_url)
        probe(store)
        repository = Repository.open(store, session, *find_master_keys(master_key))
        if repository.is_closed():
            raise SessionDeleted(session)
        return repository
    except SessionDeleted as error:
        raise StoreUnusable(str(error), hint=error.hint) from error
    except StoreError as error:
        raise StoreUnusable(str(error), hint=None if error.retryable else error.hint) from error
    except CheckpointError as error:
        raise StoreUnusable(f"the session's key: {error}", hint=error.hint) from error


def _listen(app: Application, port: int, host: str) -> HTTPServer:
    try:
        return listen(app, port, host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} on {host} is taken") from error
        raise
