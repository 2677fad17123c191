"""One session on this node: its kernels, their shims, and the workspace operations of the UI."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway import trace
from gateway.errors import AgentTimeout, ShimGone
from gateway.shim_archive import PRELOAD
from sessionkeeper.agent.errors import KernelStartFailed
from sessionkeeper.agent.place import Place, Slot
from sessionkeeper.agent.relay import ShimRelay
from sessionkeeper.agent.workspace import LiveWorkspace
from sessionkeeper.errors import SessionkeeperError

log = logging.getLogger(__name__)

START_TIMEOUT = 30.0
FIRST_PORT = 20000
"""Shims listen from here on, in their session's own network namespace: below the ports that Linux
gives to who connects, one of which would find itself there before the shim listens.
"""

OWN_PYTHON = {"python", "python3", f"python3.{sys.version_info.minor}"}
"""A kernelspec that says no more than this means the Python it is found with, as in Jupyter."""

Forward = Callable[[str, bytes], None]
Gone = Callable[[str], None]


async def _at_once() -> bool:
    return True


@dataclass
class HostedKernel:
    """A kernel on this node. ``launch`` is what its shim was told: argv, env, cwd, interrupt
    mode.
    """

    kernel_id: str
    name: str
    generation: int
    slot: Slot
    token: str
    launch: dict[str, Any]
    relay: ShimRelay | None = None
    running: bool = False
    """Whether its shim has begun: a checkpoint leaves out what is just being started, and no user
    code has run in."""
    gone: bool = False
    """Whether there were some, which went with their shim."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of it, for another node to bring it back."""
        return {
            "kernel_id": self.kernel_id,
            "name": self.name,
            "generation": self.generation,
            "slot": asdict(self.slot),
            "token": self.token,
            "launch": self.launch,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> HostedKernel:
        return cls(
            record["kernel_id"],
            record["name"],
            record["generation"],
            Slot(**record["slot"]),
            record["token"],
            record["launch"],
        )


@dataclass
class Spare:
    """A shim without a kernel, and beside it an interpreter that has imported what a kernel
    needs.
    """

    slot: Slot
    token: str
    relay: ShimRelay


@dataclass
class HostedSession:
    """The session ``session`` under ``epoch`` in ``place``.

    ``forward`` takes a kernel id and a link frame for the gateway, ``gone`` the id of a kernel all
    of which is gone, its shim as well, ``ran_out`` that of one whose memory ran out. ``warm`` keeps
    one spare; ``may_warm`` waits for a good time to make it, and says whether to.
    """

    session: str
    epoch: int
    place: Place
    forward: Forward
    gone: Gone = lambda kernel_id: None
    ran_out: Gone = lambda kernel_id: None
    warm: bool = True
    may_warm: Callable[[], Awaitable[bool]] = _at_once
    kernels: dict[str, HostedKernel] = field(default_factory=dict)
    writes: int = 0
    """Number of the last workspace write of the gateway's journal that is in the workspace."""

    def __post_init__(self) -> None:
        self.workspace = LiveWorkspace(self.place.root, self.place.home, self.place.user)
        self.files = self.workspace.executor()
        self.changing = asyncio.Lock()
        """Held while workspace files are written, while a kernel is ended, and while a checkpoint
        cuts all that.
        """
        self._ports = FIRST_PORT
        self._spare: Spare | None = None
        self._warming: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._starts: set[asyncio.Future[None]] = set()

    async def start_kernel(
        self,
        kernel_id: str,
        name: str,
        generation: int,
        launch: dict[str, Any],
        next_seq: int,
        applied: int,
    ) -> None:
        """Start a kernel; returns when its shim is linked. Raises :class:`KernelStartFailed`."""
        await self.stop_kernel(kernel_id)
        position = {"next_seq": next_seq, "applied": applied}
        spare, self._spare = self._spare, None
        if spare is not None:
            kernel = HostedKernel(
                kernel_id, name, generation, spare.slot, spare.token, launch, spare.relay
            )
            self.kernels[kernel_id] = kernel
            try:
                async with self.changing:  # a checkpoint has both the shim and its kernel, or none
                    call = spare.relay.call
                    await call("start", kernel_id=kernel_id, kernel=launch, **position)
                    kernel.running = True
                return
            except (ShimGone, AgentTimeout) as error:
                log.warning("the spare of session %s is of no use: %s", self.session, error)
                await self._stop(kernel)
            except BaseException:
                await self._stop(kernel)
                raise
        kernel = HostedKernel(
            kernel_id, name, generation, self._slot(kernel_id), secrets.token_hex(16), launch
        )
        self.kernels[kernel_id] = kernel
        configuration = {
            "kernel_id": kernel_id,
            "token": kernel.token,
            "kernel": launch,
            **position,
        }
        try:
            await self._start(kernel.slot, configuration)
            if self.kernels.get(kernel_id) is not kernel:
                raise KernelStartFailed("the kernel was deleted while it was started")
            await self._link(kernel)
            kernel.running = True  # not before: a shim that has not begun could not be restored
        except BaseException:
            await self._stop(kernel)
            raise

    def reserve(self, slots: Iterable[Slot]) -> None:
        """Give these slots to nobody else: what has them is about to be adopted."""
        self._ports = max([self._ports, *(slot.port for slot in slots)])

    async def adopt(self, kernel: HostedKernel) -> None:
        """Take over a kernel that runs already: restored, or left by an agent that crashed."""
        self.reserve([kernel.slot])
        kernel.running = True
        self.kernels[kernel.kernel_id] = kernel
        await self._link(kernel)

    def record(self) -> dict[str, Any]:
        """Return what :meth:`resume` needs."""
        kernels = [kernel.record() for kernel in self.kernels.values()]
        return {"epoch": self.epoch, "kernels": kernels, "writes": self.writes}

    async def resume(self, record: dict[str, Any]) -> None:
        """Go on with what another process of this node left running.

        Raises :class:`KernelStartFailed` when any of it is gone.
        """
        kernels = [HostedKernel.from_record(one) for one in record["kernels"]]
        slots = [kernel.slot for kernel in kernels]
        await asyncio.to_thread(self.place.resume, slots)
        self.writes = int(record["writes"])
        self.reserve(slots)
        await asyncio.to_thread(self.place.thaw, slots)
        for kernel in kernels:
            await self.adopt(kernel)
        self.keep_warm()

    async def stop_kernel(self, kernel_id: str) -> None:
        """End a kernel; nothing happens when there is none of that id."""
        kernel = self.kernels.get(kernel_id)
        if kernel is not None:
            await self._stop(kernel)

    async def _stop(self, kernel: HostedKernel) -> None:
        async with self.changing:  # not while it is being dumped
            if self.kernels.get(kernel.kernel_id) is kernel:
                del self.kernels[kernel.kernel_id]
            if kernel.relay is not None:
                await kernel.relay.close()
            await asyncio.to_thread(self.place.stop, kernel.slot)

    def to_shim(self, kernel_id: str, frame: bytes) -> None:
        """Pass a frame of the gateway on; dropped when the kernel is not here (any more)."""
        kernel = self.kernels.get(kernel_id)
        if kernel is not None and kernel.relay is not None:
            if trace.enabled():
                trace.link_frame("agent.to_shim", kernel_id, frame)
            kernel.relay.send(frame)

    def hold_back(self, kernel_id: str, held: bool) -> None:
        """The gateway takes less than a kernel says: read no more from its shim, or go on."""
        kernel = self.kernels.get(kernel_id)
        if kernel is not None and kernel.relay is not None:
            kernel.relay.hold_back(held)

    async def interrupt(self, kernel_id: str) -> None:
        kernel = self.kernels.get(kernel_id)
        if kernel is not None and kernel.relay is not None:
            await kernel.relay.call("interrupt")

    def tell_gone(self) -> None:
        """Tell of all kernels that are gone, as somebody may not have been told."""
        for kernel in self.kernels.values():
            if kernel.gone:
                self.gone(kernel.kernel_id)

    def status(self) -> dict[str, Any]:
        """Return what a gateway needs to go on with it: which ``kernels`` are there, which are
        ``gone`` with their shim.
        """
        return {
            "epoch": self.epoch,
            "kernels": sorted(k for k, kernel in self.kernels.items() if not kernel.gone),
            "gone": sorted(k for k, kernel in self.kernels.items() if kernel.gone),
            "writes": self.writes,
        }

    def slots(self) -> list[Slot]:
        return [kernel.slot for kernel in self.kernels.values()]

    def keep_warm(self) -> None:
        """Have a spare ready soon, if wanted and there is none."""
        if self.warm and self._spare is None and (not self._warming or self._warming.done()):
            self._warming = asyncio.create_task(self._warm_up())

    async def close(self) -> None:
        """End everything of the session on this node."""
        tasks = [task for task in (self._warming, *self._ending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        relays = [kernel.relay for kernel in self.kernels.values()]
        if self._spare is not None:
            relays.append(self._spare.relay)
        for relay in relays:
            if relay is not None:
                await relay.close()
        self.kernels.clear()
        self.files.shutdown(wait=False)
        starts = list(self._starts)  # threads that nothing stops
        await asyncio.to_thread(self.place.close)
        if starts:
            await asyncio.gather(*starts, return_exceptions=True)
            await asyncio.to_thread(self.place.close)

    async def _warm_up(self) -> None:
        if not await self.may_warm():
            return
        slot, token = self._slot("spare"), secrets.token_hex(16)
        configuration = {
            "kernel_id": "",
            "token": token,
            "kernel": None,
            "preload": list(PRELOAD),
            "next_seq": 1,
            "applied": 0,
        }
        try:
            await self._start(slot, configuration)
            relay = self._relay(slot, token, lambda: self._owner(slot))
            await relay.open(START_TIMEOUT)
        except SessionkeeperError as error:
            # The next kernel is started without.
            log.warning("session %s has no spare: %s", self.session, error)
            await asyncio.to_thread(self.place.stop, slot)
            return
        self._spare = Spare(slot, token, relay)

    async def _start(self, slot: Slot, configuration: dict[str, Any]) -> None:
        work = asyncio.ensure_future(
            asyncio.to_thread(self.place.start, slot, self.epoch, configuration)
        )
        self._starts.add(work)
        work.add_done_callback(self._starts.discard)
        await asyncio.shield(work)

    def _shim_gone(self, slot: Slot, kernel_id: str | None) -> None:
        """The shim in ``slot`` is not there any more, of whichever kernel it was."""
        if kernel_id is not None:
            kernel = self.kernels[kernel_id]
            kernel.running, kernel.gone = False, True
            self._killed(slot, kernel_id)
            self.gone(kernel_id)
        elif self._spare is not None and self._spare.slot == slot:
            self._spare = None
            task = asyncio.create_task(asyncio.to_thread(self.place.stop, slot))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _killed(self, slot: Slot, kernel_id: str | None) -> None:
        if kernel_id is not None and self.place.ran_out(slot):
            self.ran_out(kernel_id)

    async def _link(self, kernel: HostedKernel) -> None:
        kernel.relay = self._relay(kernel.slot, kernel.token, lambda: kernel.kernel_id)
        await kernel.relay.open(START_TIMEOUT)

    def _relay(self, slot: Slot, token: str, owner: Callable[[], str | None]) -> ShimRelay:
        def forward(frame: bytes) -> None:
            kernel_id = owner()
            if kernel_id is not None:
                if trace.enabled():
                    trace.link_frame("agent.from_shim", kernel_id, frame)
                self.forward(kernel_id, frame)

        return ShimRelay(
            lambda: self.place.connect(slot),
            lambda: self.place.alive(slot),
            token,
            forward,
            lambda: self._shim_gone(slot, owner()),
            quiet=self.changing.locked,
            on_killed=lambda: self._killed(slot, owner()),
        )

    def _owner(self, slot: Slot) -> str | None:
        for kernel in self.kernels.values():
            if kernel.slot == slot:
                return kernel.kernel_id
        return None

    def _slot(self, name: str) -> Slot:
        self._ports += 1
        return Slot(f"{name[:8]}-{self._ports}", self._ports)


def kernelspec_launch(
    spec: dict[str, Any], resources: Path, env: dict[str, str], cwd: str | None
) -> dict[str, Any]:
    """Return what a shim needs to start a kernel of ``spec`` (a ``kernel.json``), for this
    user's ``env``.

    The kernelspec's own variables win over the node's, the user's over both.
    ``{connection_file}`` is left to the shim.
    """
    argv = [a.replace("{resource_dir}", str(resources)) for a in spec["argv"]]
    if not argv:
        raise KernelStartFailed("the kernelspec has an empty argv")
    if argv[0] in OWN_PYTHON:
        argv[0] = sys.executable
    return {
        "argv": argv,
        "env": {**spec.get("env", {}), **env},
        "cwd": cwd,
        "interrupt_mode": spec.get("interrupt_mode", "signal"),
        "language": spec.get("language", ""),
    }
