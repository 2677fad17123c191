"""A session's keeper between agents that do as they are told and kernels that only have ids."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from checkpoint.blobs import BlobStore, Memory
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body, Manifest, Part, encode_body
from checkpoint.repository import Repository
from gateway.errors import KernelNotFound, RemoteError
from gateway.journal import Snapshot
from sessionkeeper.keeper.blobs import Grants
from sessionkeeper.keeper.channels import Activity, Position
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.leases import Leases

SESSION = "one"
LONG_LEASE = 60.0
Answer = Callable[[dict[str, Any]], Awaitable[Any]]


def remote(code: str, message: str = "it does not work", *, retryable: bool = True) -> RemoteError:
    return RemoteError({"code": code, "message": message, "hint": "", "retryable": retryable})


def fails(error: Exception) -> Answer:
    async def answer(params: dict[str, Any]) -> Any:
        raise error

    return answer


class Channels:
    """The kernels, as the gateway knows them. ``attached``: id to the epoch it is heard in."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)
        self.attached: dict[str, int] = {}
        self.released: dict[str, Position] = {}
        self.generations: dict[str, int] = {}
        self.told: dict[str, str] = {}
        self.ended = 0
        self.refusal = ""
        self.asked = False
        self.changed: Callable[[], None] = lambda: None
        self.gone: Callable[[str], object] = lambda kernel_id: None

    def called(self, kernel_id: str) -> str:
        return f"the kernel {kernel_id}"

    def wanted(self) -> list[dict[str, Any]]:
        return [
            {"kernel_id": one, "name": "python3", "generation": self.generations.get(one, 0)}
            for one in self.ids
        ]

    def records(self) -> dict[str, dict[str, Any]]:
        return {one: {"generation": self.generations.get(one, 0)} for one in self.ids}

    def snapshots(self) -> Mapping[str, Snapshot]:
        return {}

    def lacking(self, kernels: Iterable[str]) -> list[str]:
        return []

    def refuse(self, why: str) -> None:
        self.refusal = why

    def go_back(
        self, records: Mapping[str, Mapping[str, Any]], why: str, *, other: bool = False, **_: Any
    ) -> None:
        for one, said in records.items():
            if one not in self.ids:
                self.ids.append(one)
            if self.generations.get(one, 0) < said["generation"]:
                self.generations[one] = said["generation"]
                self.told[one] = why

    def attach(self, kernel_id: str, send: Callable[[bytes], None], epoch: int) -> None:
        if kernel_id not in self.ids:
            raise KernelNotFound(kernel_id)
        self.attached[kernel_id] = epoch
        self.changed()

    def detach(self, kernel_id: str) -> None:
        self.attached.pop(kernel_id, None)

    def position(self, kernel_id: str) -> Position:
        return Position(applied=self.ended, produced=2 * self.ended)

    def release(self, kernel_id: str, position: Position) -> None:
        self.released[kernel_id] = position

    def give_up(self, kernel_id: str, upto: int, why: str) -> None:
        """Nobody waits for an answer here."""

    def end(self, kernel_id: str, why: str) -> None:
        self.told[kernel_id] = why

    def activity(self) -> Activity:
        return Activity(self.ended, 0.0, busy=False)

    def pending(self) -> bool:
        return self.asked


class ScriptedAgent:
    """An agent, at the other end of its connection: has the session under ``epoch``, or not.

    ``next`` has for a method what it does instead, once each; ``calls`` is what it was asked.
    """

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.epoch: int | None = None
        self.kernels: set[str] = set()
        self.gone: set[str] = set()
        self.damage: str | None = None
        self.busy = False
        self.applied: list[int] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.next: dict[str, list[Answer]] = {}
        self.closed: list[str] = []

    async def call(self, method: str, params: dict[str, Any], wait: float) -> Any:
        self.calls.append((method, params))
        self.site.happened.set()
        scripted = self.next.get(method)
        if scripted:
            return await scripted.pop(0)(params)
        return getattr(self, "_" + method.replace(".", "_"))(**params)

    def send_frame(self, kernel_id: str, frame: bytes) -> None:
        """Nothing is said to kernels here."""

    def send_event(self, event: dict[str, Any]) -> None:
        """Leases are granted elsewhere."""

    def close(self, reason: str, /) -> None:
        self.closed.append(reason)

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [params for name, params in self.calls if name == method]

    def _session_open(self, epoch: int, kernels: list[dict[str, Any]], **_: Any) -> dict[str, Any]:
        self.epoch, self.kernels = epoch, {k["kernel_id"] for k in kernels}
        self.gone.clear()
        outcome = {k: {"state": "restored", "why": None} for k in self.kernels}
        return {"kernels": outcome, "refused": [], "seconds": {}}

    def _session_take_up(self, epoch: int, **_: Any) -> dict[str, Any]:
        if self.epoch != epoch:
            raise remote("not_hosted")
        return self._session_status()

    def _session_status(self, **_: Any) -> dict[str, Any]:
        if self.epoch is None:
            raise remote("not_hosted")
        return {
            "epoch": self.epoch,
            "kernels": sorted(self.kernels - self.gone),
            "gone": sorted(self.gone),
            "damage": self.damage,
            "writes": max([0, *self.applied]),
        }

    def _session_checkpoint(self, epoch: int, wanted: str = "no", **_: Any) -> dict[str, Any]:
        if self.epoch != epoch:
            raise remote("not_hosted")
        if self.busy and wanted == "needed":
            raise remote("kernel_busy", "the kernel runs a cell")
        found = "busy" if self.busy else "saved"
        parts = {kernel: Part("criu", None, {}) for kernel in self.kernels}
        said = {} if wanted == "no" else {"variables": found}
        body = Body(processes=parts, meta={**self._meta(), **said})
        encoded = base64.b64encode(encode_body(body)).decode()
        return {"body": encoded, "pause": 0.01, "stored": 10, "seconds": {}, "lost": {}}

    def _meta(self) -> dict[str, Any]:
        return {"writes": max([0, *self.applied]), "engine": "criu", "cpu": "a CPU"}

    def _session_close(self, epoch: int, **_: Any) -> None:
        if self.epoch is not None and self.epoch <= epoch:
            self.epoch = None

    def _session_stage(self, **_: Any) -> None:
        """It has plenty of room."""

    def _kernel_start(self, kernel_id: str, **_: Any) -> None:
        self.kernels.add(kernel_id)

    def _kernel_stop(self, kernel_id: str, **_: Any) -> None:
        self.kernels.discard(kernel_id)

    def _files_apply(self, write: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.applied.append(write["number"])
        return {"name": write["path"]}


class Site:
    """A gateway's keeper with all that is around it."""

    def __init__(
        self, base: Path, *kernels: str, store: BlobStore | None = None, run: str | None = None
    ) -> None:
        self.base = base
        self.run = run
        self.store = store or Memory()
        self.repository = Repository.open(self.store, SESSION, MasterKey(bytes(32)))
        self.channels = Channels(*kernels)
        self.happened = asyncio.Event()
        self.channels.changed = self.happened.set
        self.agents: dict[str, ScriptedAgent] = {}
        self.start_process()

    def start_process(self) -> None:
        """What begins with the gateway's process, and ends with it."""
        self.grants = Grants()
        self.nodes = Nodes(Leases(LONG_LEASE), lambda node: self.keeper.node_changed(node))
        self.journal = WriteJournal(self.base / "writes")
        state = self.base / "incarnation.json"
        self.keeper = SessionKeeper(
            self.repository, self.nodes, self.channels, self.journal, self.grants, state, self.run
        )
        self.channels.gone = self.keeper.kernels.bring_back
        self.keeper.status.listen(lambda _: self.happened.set())
        self.channels.attached.clear()
        self.task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self.keeper.start()
        self.task = asyncio.create_task(self.keeper.run())

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        self.journal.close()

    async def restart(self) -> None:
        """The gateway's process is killed, and started again; agents have not noticed yet."""
        await self.end()
        self.start_process()
        await self.begin()

    def join(self, name: str, *, sessions: dict[str, int] | None = None, **more: Any) -> Node:
        """An agent says hello: a new one, or the one of that name that lost its connection."""
        agent = self.agents.setdefault(name, ScriptedAgent(self, name))
        if sessions is None:
            sessions = {} if agent.epoch is None else {SESSION: agent.epoch}
        hello = {"node": name, "runtime": "container", "engines": ["criu"], "sessions": sessions}
        return self.nodes.joined(agent, {**hello, **more})

    def disconnect(self, name: str) -> None:
        self.nodes.disconnected(self.nodes.get(name), self.agents[name])

    def lose(self, name: str) -> None:
        self.nodes.left(self.nodes.get(name))

    def drain(self, name: str, seconds: float = 30.0) -> asyncio.Task[str | None]:
        node = self.nodes.get(name)
        node.draining = True
        node.leaves_at = asyncio.get_running_loop().time() + seconds
        return asyncio.create_task(self.keeper.drain(node))

    async def until(self, condition: Callable[[], bool], within: float = 10.0) -> None:
        """Wait until it is so; whatever happens is an occasion to look."""
        async with asyncio.timeout(within):
            while not condition():
                self.happened.clear()
                await self.happened.wait()

    async def runs_on(self, name: str) -> ScriptedAgent:
        def there() -> bool:
            status = self.keeper.status
            return (status.state, status.node) == ("running", name)

        await self.until(there)
        return self.agents[name]

    async def checkpointed(self) -> Manifest:
        """A cell has ended: wait for the checkpoint with it."""
        self.channels.ended += 1
        async with asyncio.timeout(10):
            assert await self.keeper.checkpointed()
        manifest = self.keeper.chain.manifest
        assert manifest is not None
        return manifest

    @property
    def said(self) -> str:
        return "\n".join(event["text"] for event in self.keeper.status.json()["events"])

    def holders(self) -> list[tuple[str, int]]:
        """Who has the session, as far as it knows itself."""
        return [(a.name, a.epoch) for a in self.agents.values() if a.epoch is not None]
