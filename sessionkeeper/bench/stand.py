"""One session on one node, with its store in a directory: all that a checkpoint takes, and nothing
else. What `bench checkpoint` measures; it calls the agent's own code, where a gateway would.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoint.blobs import LocalDirectory
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Manifest, decode_body
from checkpoint.repository import Repository
from gateway.link import GatewayLink, Output, Resumed
from sessionkeeper.agent.container import ContainerPlace
from sessionkeeper.agent.hosted import HostedSession
from sessionkeeper.agent.kernelspecs import Kernelspecs
from sessionkeeper.agent.offer import Offer
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.tenancy import Tenancy
from sessionkeeper.bench.errors import RunFailed

__all__ = ["Checkpoint", "Stand", "stand"]

KERNEL = "bench"
READY_SECONDS = 60.0
CELL_SECONDS = 120.0


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint took: `stored` bytes in the store, manifest included; `pause` seconds in
    which the kernel stood still; `committed` seconds from its beginning until it counted."""

    stored: int
    pause: float
    committed: float
    seconds: dict[str, float]


@dataclass
class Stand:
    """The session. One kernel; `number` is that of its newest checkpoint."""

    offer: Offer
    store: Path
    session: str
    repository: Repository
    number: int = 0
    epoch: int = 0
    opening: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of the newest `begin`."""
    lazy: bool = False
    """Whether the node can restore lazily."""
    _tenancy: Tenancy | None = field(default=None, repr=False)
    _link: GatewayLink | None = field(default=None, repr=False)

    def stored(self) -> int:
        """Bytes of all objects in the store."""
        return _size(self.store)

    async def begin(self, *, lazily: bool = True) -> None:
        """Open the session and its kernel: anew, or as the newest checkpoint has them; `lazily`
        where the node would do that."""
        self._attach()
        place = self.offer.place(self.session, self.epoch)
        self.lazy = place.lazy_above is not None
        if not lazily:
            place.lazy_above = None
        blobs, keys = self.repository.blobs, self.repository.keys
        savepoints = Savepoints(blobs, keys, self.offer.images(self.session, self.epoch))
        savepoints.settle(place, blobs)
        hosted = HostedSession(self.session, self.epoch, place, self._hear, warm=False)
        self._tenancy = Tenancy(hosted, savepoints, blobs, Kernelspecs(), self.offer.cpu)
        kernel = {
            "kernel_id": KERNEL,
            "name": "python3",
            "env": {},
            "path": "",
            "generation": 1,
            "next_seq": 1,
            "applied": 0,
            "since": None,
        }
        opened = await self._tenancy.open(self.number or None, [kernel], True, [], None)
        self._say()
        self.opening = opened["seconds"]
        outcome = opened["kernels"][KERNEL]
        if self.number and (outcome["state"] != "restored" or outcome["why"]):
            raise RunFailed(f"the kernel did not come back as it was: {outcome}")
        async with asyncio.timeout(READY_SECONDS):
            while not (await self._call("status"))["ready"]:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.002)

    async def run(self, code: str, expression: str = "None") -> Any:
        """A cell, and the value of an expression after it. Raises RunFailed."""
        reply = await self._call(
            "execute",
            code=code,
            user_expressions={"value": expression},
            timeout=CELL_SECONDS,
            wait=CELL_SECONDS,
        )
        if reply["status"] != "ok":
            raise RunFailed(f"the cell {code[:40]!r} failed: {reply.get('evalue')}")
        value = reply["user_expressions"]["value"]
        if value["status"] != "ok":
            raise RunFailed(f"{expression!r} failed: {value.get('evalue')}")
        return ast.literal_eval(value["data"]["text/plain"])

    async def checkpoint(self, within: float = READY_SECONDS) -> Checkpoint:
        """Take one, as the keeper has it taken between two cells, and commit it. `within` seconds
        what it has to wait for must have happened."""
        assert self._tenancy is not None
        before, began = self.stored(), time.perf_counter()
        taken = await self._tenancy.checkpoint(False, within=within)
        body = decode_body(base64.b64decode(taken["body"]))
        manifest = Manifest(self.number + 1, self.epoch, self.number or None, time.time(), body)
        await asyncio.to_thread(self.repository.commit, manifest)
        self.number += 1
        committed = time.perf_counter() - began
        return Checkpoint(self.stored() - before, taken["pause"], committed, taken["seconds"])

    async def plain(self, directory: Path) -> tuple[float, int, float]:
        """What `runc checkpoint` and `runc restore` do by themselves: seconds of the one, bytes in
        `directory`, and seconds from SIGKILL until the first cell has run again."""
        assert self._tenancy is not None
        await asyncio.to_thread(self._tenancy.savepoints.arrived, READY_SECONDS)
        hosted = self._tenancy.hosted
        kernel, place = hosted.kernels[KERNEL], hosted.place
        assert isinstance(place, ContainerPlace)
        began = time.perf_counter()
        try:
            await asyncio.to_thread(place.freeze, [kernel.slot])
            await asyncio.to_thread(place.dump_plainly, kernel.slot, directory)
        finally:
            await asyncio.to_thread(place.thaw, [kernel.slot])
        dumped = time.perf_counter() - began
        await hosted.stop_kernel(KERNEL)
        self._attach()
        began = time.perf_counter()
        await asyncio.to_thread(place.restore, kernel.slot, directory, self.epoch)
        await asyncio.to_thread(place.thaw, [kernel.slot])
        await hosted.adopt(kernel)
        self._say()
        await self.run("z = x[0]")
        return dumped, _size(directory), time.perf_counter() - began

    async def kill(self) -> None:
        """SIGKILL, and nothing but the store is left."""
        tenancy, self._tenancy = self._tenancy, None
        if tenancy is not None:
            with suppress(asyncio.CancelledError):
                await tenancy.close()

    async def _call(self, name: str, **arguments: Any) -> Any:
        assert self._tenancy is not None
        relay = self._tenancy.hosted.kernels[KERNEL].relay
        assert relay is not None
        return await relay.call(name, **arguments)

    def _attach(self) -> None:
        self.epoch += 1
        self._link = GatewayLink(_NoInputs())
        self._link.attach(self.epoch)

    def _hear(self, _kernel_id: str, frame: bytes) -> None:
        """Acknowledge what the kernel says, as the gateway does."""
        assert self._link is not None
        match self._link.receive(frame):
            case Resumed():
                self._link.resume()
            case Output() as output:
                self._link.accept(output)
        self._say()

    def _say(self) -> None:
        if self._tenancy is None or self._link is None:
            return
        for frame in [*self._link.outgoing(), self._link.take_ack()]:
            if frame is not None:
                self._tenancy.hosted.to_shim(KERNEL, bytes(frame))


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


class _NoInputs:
    """What a gateway keeps for a kernel that is asked through its shim alone: nothing."""

    last = 0

    def append(self, payload: bytes | memoryview) -> int:
        raise NotImplementedError

    def get(self, number: int, ahead: bytes = b"") -> bytes:
        return ahead

    def void(self, number: int) -> None:
        pass

    def release(self, upto: int) -> None:
        pass

    def skip_to(self, number: int) -> None:
        self.last = number - 1


@asynccontextmanager
async def stand(offer: Offer, store: Path, session: str) -> AsyncIterator[Stand]:
    """A session that has its kernel, and no checkpoint yet. Gone in the end, store excepted."""
    keys = SessionKeys.generate()
    repository = Repository(LocalDirectory(store), session, keys)
    one = Stand(offer, store, session, repository)
    try:
        await one.begin()
        yield one
    finally:
        await one.kill()
