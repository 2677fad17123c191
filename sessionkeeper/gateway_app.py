"""The gateway's process: kernel gateway API, agents, blob access for nodes, and the keeper."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop
from tornado.httpserver import HTTPServer

from checkpoint.blobs import open_store, probe
from checkpoint.errors import CheckpointError, SessionDeleted, StoreError
from checkpoint.keys import find_master_keys
from checkpoint.repository import Repository
from gateway.app import Application, listen, make_shared_app
from gateway.health import Readiness, journal_readiness
from gateway.metrics import KernelCollector
from gateway.options import Options
from gateway.rollback import Mode
from gateway.starting import prespawn
from sessionkeeper.compute.choice import provisioner_of
from sessionkeeper.errors import PortTaken, StoreUnusable
from sessionkeeper.images.clearing import Clearing, Limits
from sessionkeeper.images.serving import image_routes
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.tickets import ticket_for
from sessionkeeper.keeper.access import Access
from sessionkeeper.keeper.agents import NodeAgents, NodeConnection
from sessionkeeper.keeper.api import Shared, routes
from sessionkeeper.keeper.blobs import BlobHandler, Grants
from sessionkeeper.keeper.checkpoint_api import checkpoint_routes
from sessionkeeper.keeper.epochs import has_run
from sessionkeeper.keeper.expiring import Expiry
from sessionkeeper.keeper.export_api import export_routes
from sessionkeeper.keeper.kept import Around
from sessionkeeper.keeper.ledger import Ledger
from sessionkeeper.keeper.metrics import SessionsCollector
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.node_api import node_routes
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.notices import Notices
from sessionkeeper.keeper.register import Register
from sessionkeeper.keeper.report_api import report_routes
from sessionkeeper.keeper.roster import Roster
from sessionkeeper.keeper.session_api import session_routes
from sessionkeeper.keeper.sessions import Sessions
from sessionkeeper.keeper.whereto import Line
from sessionkeeper.launch.build import Builder
from sessionkeeper.launch.handlers import Binder, binder_routes
from sessionkeeper.launch.launches import Launches
from sessionkeeper.launch.servers import GatewayAlone, UpServers
from sessionkeeper.line import Rules
from sessionkeeper.registration import Memory
from sessionkeeper.settings import GatewaySettings
from sessionkeeper.up.ready import announce
from sessionkeeper.up.state import StateDirectory

log = logging.getLogger(__name__)

THREADS = 64
"""They wait for the store: one session's commit must not wait for those of others."""

RUN = "SESSIONKEEPER_RUN"
"""In the environment: which `sessionkeeper up` started this process."""


class Gateway:
    """Everything in the process, wired. ``own`` is the session that it was started with."""

    def __init__(self, settings: GatewaySettings, own: Repository, options: Options) -> None:
        self._settings = settings
        self._own = own
        self._options = options
        state = settings.state
        masters = find_master_keys(settings.master_key)
        on_rollback: Mode = "stop" if settings.on_rollback == "stop" else "replay"
        self.nodes = Nodes(
            settings.lease_seconds,
            self._node_changed,
            Notices(state / "notices.json"),
            state / "leases.json",
        )
        self.nodes.pool.load(state / "preemptions.json")
        promised = self.nodes.pool.promised
        self.ledger = Ledger(
            state / "bill.sqlite",
            self.nodes,
            lambda session: promised[session].owner if session in promised else "",
        )
        roster = Roster(state / "nodes.json")
        grants = Grants()
        around = Around(
            self.nodes,
            grants,
            Line(self.nodes, Rules(settings.quotas, settings.on_demand), settings.rebalance_after),
            on_rollback,
            settings.keep,
            settings.hibernate_after,
            os.environ.get(RUN),
            self.ledger,
            Memory(settings.guarantee, settings.limit),
            lambda digest: ticket_for(digest, settings.agent_token),
        )
        _move_kernels(state)
        self.sessions = Sessions(Register(state / "sessions", own.store, *masters), around)
        self.images = ImageStore(settings.images or state / "images")
        up = StateDirectory(settings.up) if settings.up is not None else None
        servers = UpServers(up) if up else GatewayAlone()
        limits = Limits(settings.images_unused, settings.images_size)
        self._clearing = Clearing(self.images, limits, self.sessions.images)
        self.launches = Launches(self.sessions, Builder(self.images, settings.registry), servers)
        self._expiry = Expiry(
            self.sessions, settings.session_limits, settings.session, servers.close
        )
        self._provisioner = provisioner_of(settings, self.sessions)
        access = Access(self.sessions, settings.token, settings.session)
        shared = Shared(
            access, self.sessions, self.nodes, masters, self.ledger, roster, self.images
        )
        agents = {
            "agents": NodeAgents(self.nodes, self.sessions, roster),
            "token": settings.agent_token,
            "roster": roster,
        }
        self.app = make_shared_app(
            access.tenant,
            access.check_operator,
            [
                (r"/agents", NodeConnection, agents),
                (r"/blobs/(.*)", BlobHandler, {"grants": grants}),
                *routes(shared),
                *node_routes(shared),
                *checkpoint_routes(shared),
                *session_routes(shared),
                *export_routes(shared),
                *report_routes(shared),
                *image_routes(self.images, settings.agent_token),
                *(binder_routes(self._binder(access)) if settings.binder != "off" else ()),
            ],
            options,
            self._readiness,
            [
                KernelCollector(lambda: [kept.kernels for kept in self.sessions]),
                SessionsCollector(lambda: [k.keeper.status for k in self.sessions], self.nodes),
            ],
        )

    def _binder(self, access: Access) -> Binder:
        def has_nodes() -> bool:
            return any(node.ready for node in self.nodes)

        return Binder(
            self.launches, access.check_operator, has_nodes, self._settings.binder == "open"
        )

    def _node_changed(self, node: Node) -> None:
        self.sessions.node_changed(node)
        if self._provisioner is not None:
            self._provisioner.wake()

    def _readiness(self) -> Readiness:
        found = journal_readiness(self._settings.state / "sessions")
        keepers = [kept.keeper for kept in self.sessions]
        lost = [keeper for keeper in keepers if keeper.fence.lost]
        if lost:
            of_all = found.reasons if len(lost) == len(keepers) else found.notes
            of_all["session"] = "another gateway has it"
        elif any(keeper.status.state == "failed" for keeper in keepers):
            found.notes["session"] = "no node can run it"
        if self._provisioner is None and not any(node.ready for node in self.nodes):
            found.notes["nodes"] = "no node is ready"
        # Their words may name a user's files, and who asks here has shown no token.
        for keeper in keepers:
            found.notes |= dict.fromkeys(keeper.status.warnings, "see `sessionkeeper status`")
        return found

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; then take last checkpoints and return."""
        settings = self._settings
        await self.sessions.start(self._own, settings.session_token, settings.seed)
        hosts = [settings.host, *([settings.agent_host] if settings.agent_host else [])]
        servers = [_listen(self.app, settings.port, host) for host in dict.fromkeys(hosts)]
        adding_up = asyncio.create_task(self.ledger.run())
        expiring = asyncio.create_task(self._expiry.run())
        clearing = asyncio.create_task(self._clearing.run())
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        spawning = None
        if self._options.prespawn_count:
            own = await self.sessions.have(settings.session)
            spawning = asyncio.create_task(prespawn(own.kernels, own.compute, self._options))
        provisioning = None
        if self._provisioner is not None:
            provisioning = asyncio.create_task(self._provisioner.run())
        announce(settings.ready_fd)
        log.info("the gateway listens on port %d of %s", settings.port, ", ".join(hosts))
        await stop.wait()
        for task in filter(None, (spawning, provisioning, expiring, clearing)):
            task.cancel()
        await self.launches.end()
        await self.sessions.end()
        adding_up.cancel()
        self.ledger.close()
        for server in servers:
            server.stop()


def _move_kernels(state: Path) -> None:
    """Where a session's kernels are recorded. Those of the one session that a state directory used
    to have were beside it.
    """
    place, before = state / "sessions" / "default" / "kernels", state / "kernels"
    if before.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        before.rename(place)


def run(settings: GatewaySettings, options: Options | None = None) -> None:
    """Serve until SIGTERM. Raises :class:`StoreUnusable`, :class:`PortTaken`, and key errors."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    begun = has_run(settings.state, settings.session)
    repository = open_repository(settings.store, settings.master_key, settings.session, begun=begun)

    async def main() -> None:
        executor = ThreadPoolExecutor(THREADS, "gateway")
        asyncio.get_running_loop().set_default_executor(executor)
        await Gateway(settings, repository, options or Options()).serve()

    uvloop.run(main())


def open_repository(
    store_url: str, master_key: Path, session: str, *, begun: bool = False
) -> Repository:
    """Open the session's repository; one that was ``begun`` before must be there. Raises
    :class:`StoreUnusable` for a store that will not do.
    """
    try:
        store = open_store(store_url, begun=begun)
        probe(store)
        find = Repository.existing if begun else Repository.open
        repository = find(store, session, *find_master_keys(master_key))
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
