"""Starts the gateway, the nodes and the UI server, keeps them running, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from sessionkeeper.errors import SessionkeeperError, UnknownNode, UsageError
from sessionkeeper.nodes.bridged import BridgedNetwork
from sessionkeeper.nodes.local import NamespaceNode, NodePlan, ProcessNode
from sessionkeeper.nodes.processes import end_all, part_of, parts
from sessionkeeper.settings import UpSettings, default_state
from sessionkeeper.up import control, leftovers
from sessionkeeper.up.child import Child
from sessionkeeper.up.commands import LOOPBACK, Commands, Places
from sessionkeeper.up.ports import choose_port
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.terminal import Terminal

__all__ = ["Supervisor", "restart_delay"]

READY_SECONDS = 60.0
STEADY_SECONDS = 30.0
STOP_SECONDS = 5.0
FIRST_UI_PORT = 100
"""Above the port of the first UI server, those of other sessions have theirs."""

_AS_THE_OTHERS: Mapping[str, Any] = {}

_log = logging.getLogger("sessionkeeper.up")


def restart_delay(failures: int) -> float:
    """Seconds to wait before a part is started again that ended `failures` times in a row."""
    return min(0.25 * 2 ** (failures - 1), 10.0) if failures > 0 else 0.0


def _without_store_access(environ: Mapping[str, str]) -> dict[str, str]:
    """What anyone but the gateway gets: credentials of a bucket, or of a gateway, stay with it."""
    return {k: v for k, v in environ.items() if not k.startswith(("AWS_", "KG_"))}


async def _together(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one fails the others are cancelled, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


class Supervisor:
    """Everything of one state directory, whose lock the caller holds. `runtime` is `container` or
    `process`; with `namespaces`, nodes get namespaces of their own, which needs root."""

    def __init__(
        self,
        settings: UpSettings,
        state: StateDirectory,
        *,
        runtime: str,
        namespaces: bool,
        commands: Commands | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        self._settings = settings
        self._state = state
        self._run = secrets.token_hex(8)
        self._runtime = runtime
        self._network = BridgedNetwork(state.id) if namespaces else None
        self._commands = commands or Commands()
        self._terminal = terminal or Terminal()
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._nodes: dict[str, ProcessNode] = {}
        self._ports: dict[str, int] = {}
        """Where the UI servers of other sessions listen."""
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._changing_nodes = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._started = time.time()

    async def run(self) -> None:
        """Until a signal or `sessionkeeper down` ends it. Raises what kept it from starting."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        starting = asyncio.create_task(self._start_everything())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                starting.result()
                await stopping
        finally:
            stopping.cancel()
            starting.cancel()
            (failure,) = await asyncio.gather(starting, return_exceptions=True)
            await self._stop_everything(ran=failure is None)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _start_everything(self) -> None:
        if self._network:
            with self._terminal.step("connecting the nodes' network"):
                await asyncio.to_thread(self._network.create)
        agent_host = str(self._network.address) if self._network else None
        hosts = [LOOPBACK, *([agent_host] if agent_host else [])]
        self._places = Places(choose_port(hosts, self._settings.port + 1), agent_host)
        self._server = await control.serve(self._state.listen(), self._handle)
        with self._terminal.step("starting the gateway"):
            await self._launch("gateway", self._start_gateway)
        names = [f"node-{index + 1}" for index in range(self._settings.nodes)]
        parts = [self._launch_node(name, self._runtime) for name in names]
        if self._settings.ui:
            parts.append(self._launch("ui", self._start_ui))
            names.append("JupyterLab")
        with self._terminal.step(f"starting {', '.join(names)}"):
            await _together(parts)
        self._write_record()
        default = self._state.path == StateDirectory(default_state()).path
        shown = None if default else self._state.path
        heading = "Open this in a browser:" if self._settings.ui else "The gateway:"
        self._terminal.ready(heading, self._url(), list(self._nodes), shown)
        _log.info("everything runs")

    async def _stop_everything(self, *, ran: bool) -> None:
        tasks = [*self._starting.values(), *self._watchers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gateway = self._children.get("gateway")
        uis = [child for name, child in self._children.items() if name.startswith("ui")]
        told = "stopping: the session is saved first" if ran else "stopping what had started"
        with self._terminal.step(told):
            # The gateway first, while its nodes are there: it makes the final checkpoints.
            if gateway:
                await gateway.stop(leftovers.GATEWAY_SECONDS, self._hurry)
            await asyncio.gather(*(ui.stop(STOP_SECONDS, self._hurry) for ui in uis))
            stops = (node.stop(STOP_SECONDS, self._hurry) for node in self._nodes.values())
            for result in await asyncio.gather(*stops, return_exceptions=True):
                if isinstance(result, BaseException):
                    _log.error("a node did not stop: %s", result)
            await asyncio.to_thread(end_all, lambda: parts(self._state.id))
            await asyncio.to_thread(leftovers.sweep, self._state)
        if self._server:
            self._server.close()
        self._state.forget_record()

    async def _launch(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        """Start a part, wait until it is ready, and keep it running from then on."""
        await self._bring_up(name, start)
        self._watchers[name] = asyncio.create_task(self._keep_running(name, start))

    async def _bring_up(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        child = self._children[name] = await start()
        await child.said("ready", READY_SECONDS)

    async def _keep_running(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        failures, since = 0, time.monotonic()
        while True:
            child = self._children[name]
            await child.ended()
            failures = 1 if time.monotonic() - since > STEADY_SECONDS else failures + 1
            delay = restart_delay(failures)
            self._tell(f"{name} ended ({child.reason()}); starting it again. Its log: {child.log}")
            await asyncio.sleep(delay)
            since = time.monotonic()
            try:
                await self._bring_up(name, start)
                self._tell(f"{name} is back")
            except (SessionkeeperError, OSError) as error:
                self._tell(f"{name} could not be started again: {error}")
                self._children[name].signal(signal.SIGKILL)

    def _tell(self, text: str) -> None:
        _log.warning(text)
        self._terminal.say(text)

    async def _start_gateway(self) -> Child:
        argv = self._commands.gateway(self._settings, self._state, self._places)
        return await self._start_child("gateway", argv)

    async def _start_ui(self) -> Child:
        argv = self._commands.ui(self._settings, self._state, self._places)
        return await self._start_child("ui", argv)

    async def _start_child(self, name: str, argv: list[str]) -> Child:
        given = os.environ if name == "gateway" else _without_store_access(os.environ)
        # KG_*: of a gateway that somebody runs by hand. This one is what the other parts know.
        given = {name: value for name, value in given.items() if not name.startswith("KG_")}
        environ = {**given, **part_of(self._state.id, name), "SESSIONKEEPER_RUN": self._run}
        return await Child.start(name, argv, log=self._state.log(name), environ=environ)

    async def _launch_node(
        self, name: str, runtime: str, own: Mapping[str, Any] = _AS_THE_OTHERS
    ) -> None:
        index = int(name.removeprefix("node-")) - 1
        data = self._state.nodes / name
        plan = NodePlan(
            instance=self._state.id,
            name=name,
            index=index,
            data=data,
            log=self._state.log(name),
            agent=self._commands.agent(
                self._settings,
                runtime,
                self._state.id,
                name,
                data,
                self._places.agent_url,
                own,
            ),
            environ=_without_store_access(os.environ),
            hide=self._state.path,
            keep=self._kept(),
            token=self._state.token("agent"),
        )
        network = self._network
        node = NamespaceNode(plan, network) if network else ProcessNode(plan)
        self._nodes[name] = node
        await self._launch(name, node.start)

    def _kept(self) -> list[Path]:
        """What a node needs though it is in the state directory: CRIU, Python, this package."""
        needed = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parents[2]]
        if self._settings.criu:
            needed.append(self._settings.criu.parent)
        return [one for one in needed if one.is_relative_to(self._state.path)]

    async def _handle(self, call: dict[str, Any]) -> dict[str, Any]:
        match call.get("command"):
            case "kill":
                return await self._kill_node(str(call.get("node")))
            case "start":
                return await self._add_node(call)
            case "ui":
                return await self._open_ui(str(call.get("session")), call.get("origin"))
            case "close_ui":
                return await self._close_ui(str(call.get("session")))
            case "stop":
                self._asked_to_stop()
                return {}
            case other:
                raise UsageError(f"the supervisor knows no command {other!r}")

    async def _kill_node(self, name: str) -> dict[str, Any]:
        async with self._changing_nodes:
            if name not in self._nodes:
                raise UnknownNode(f"no node {name!r} runs here; there is {self._names()}")
            if watcher := self._watchers.pop(name, None):
                watcher.cancel()
            began = time.monotonic()
            await self._nodes.pop(name).pull_plug()
            _log.info("the plug of %s was pulled", name)
            self._write_record()
            return {"node": name, "seconds": time.monotonic() - began}

    async def _open_ui(self, session: str, origin: object = None) -> dict[str, Any]:
        """A UI server for one more session, whose token is in its file; where it is. `origin` is
        that of pages elsewhere that may talk to it. Several start at once."""
        if session == self._settings.session and self._settings.ui:
            return {"url": self._url()}
        name = f"ui-{session}"
        if name not in self._children and name not in self._starting:
            work = asyncio.create_task(self._start_ui_of(session, name, origin))
            self._starting[name] = work
            work.add_done_callback(lambda _: self._starting.pop(name, None))
        if starting := self._starting.get(name):
            await asyncio.shield(starting)
        return {"url": self._url(session)}

    async def _start_ui_of(self, session: str, name: str, origin: object) -> None:
        given = frozenset(self._ports.values())
        first = self._settings.port + FIRST_UI_PORT
        port = self._ports[session] = choose_port([self._settings.host], first, given)
        allowed = str(origin) if origin else None
        argv = self._commands.ui(self._settings, self._state, self._places, session, port, allowed)
        try:
            await self._launch(name, lambda: self._start_child(name, argv))
        except BaseException:
            self._ports.pop(session, None)
            if child := self._children.pop(name, None):
                child.signal(signal.SIGKILL)
            raise

    async def _close_ui(self, session: str) -> dict[str, Any]:
        """The session is gone: so is its UI server, if it had one."""
        name = f"ui-{session}"
        if starting := self._starting.get(name):
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        if watcher := self._watchers.pop(name, None):
            watcher.cancel()
        if child := self._children.pop(name, None):
            await child.stop(STOP_SECONDS, self._hurry)
        self._ports.pop(session, None)
        return {}

    async def _add_node(self, call: Mapping[str, Any]) -> dict[str, Any]:
        name, runtime = call.get("node"), call.get("runtime") or self._runtime
        if runtime not in ("process", self._runtime):
            raise UsageError(f"a node here has the runtime process or {self._runtime}")
        async with self._changing_nodes:
            free = (f"node-{number}" for number in range(1, 61))
            chosen = str(name) if name else next(one for one in free if one not in self._nodes)
            if chosen in self._nodes:
                raise UsageError(f"{chosen} runs already", hint="`sessionkeeper node list`")
            number = chosen.removeprefix("node-")
            if chosen == number or not number.isdecimal() or not 1 <= int(number) <= 60:
                raise UsageError(f"{chosen!r} is no name for a node here", hint="node-1 to node-60")
            try:
                await self._launch_node(chosen, runtime, call)
            except BaseException:
                await self._nodes.pop(chosen).pull_plug()
                raise
            self._write_record()
            return {"node": chosen}

    def _names(self) -> str:
        return ", ".join(sorted(self._nodes)) or "none"

    def _url(self, session: str | None = None) -> str:
        if session is None and not self._settings.ui:
            return f"{self._places.url}/?token={self._state.token('gateway')}"
        shown = {"0.0.0.0": LOOPBACK, "::": "[::1]"}  # noqa: S104 - what to show for them
        host = shown.get(self._settings.host, self._settings.host)
        port = self._ports.get(session or "", self._settings.port)
        token = self._state.token(f"session-{session}" if session else "ui")
        return f"http://{host}:{port}/lab?token={token}"

    def _write_record(self) -> None:
        self._state.write_record(
            {
                "pid": os.getpid(),
                "instance": self._state.id,
                "started": self._started,
                "url": self._url(),
                "gateway": self._places.url,
                "runtime": self._runtime,
                "session": self._settings.session,
                "store": self._settings.store,
                "master_key": str(self._settings.master_key or self._state.master_key),
                "nodes": {name: self._described(node) for name, node in self._nodes.items()},
            }
        )

    def _described(self, node: ProcessNode) -> dict[str, Any]:
        if self._network and isinstance(node, NamespaceNode):
            address = str(self._network.node_address(node.plan.index))
            return {"address": address, "init": node.init_pid}
        return {"address": LOOPBACK, "init": None}
