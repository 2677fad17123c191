"""The moment of a checkpoint: what stands still, for how long, and what is copied meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway.errors import GatewayError
from sessionkeeper.agent import beside, variables
from sessionkeeper.agent.errors import DumpFailed
from sessionkeeper.agent.hosted import HostedKernel, HostedSession
from sessionkeeper.agent.place import Place
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.taken import Cut
from sessionkeeper.agent.turns import Turn

ANSWER = 1.0
"""Seconds for a shim to say whether its kernel is there. It answers at once, if it is heard."""


class Cuts:
    """Those of one session. ``meta`` is what a checkpoint says of it, asked while it stands still.

    After a ``final`` one all stays as it stands. ``turn`` is waited for, and had from then on.
    Where kernels are saved between two cells, a running one has ``within`` seconds to end; raises
    :class:`KernelBusy` when it does not.
    """

    def __init__(
        self,
        hosted: HostedSession,
        savepoints: Savepoints,
        meta: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._hosted = hosted
        self._savepoints = savepoints
        self._meta = meta

    def running(self) -> list[HostedKernel]:
        """The kernels that there is something to save of."""
        return [kernel for kernel in self._hosted.kernels.values() if kernel.running]

    async def processes(self, final: bool, within: float, wanted: beside.Wanted, turn: Turn) -> Cut:
        """Process images, and variables beside them as far as they are ``wanted``."""
        held, done = self.running(), False
        until = time.monotonic() + within if final else None
        try:
            found, stands = await beside.hold(held, wanted, within)
            await turn.come()
            async with self._hosted.changing:
                began = time.monotonic()
                kernels = self.running()
                await _be_alive(kernels, self._hosted.place)
                dumped = await beside.dump(kernels, stands, self._hosted.place, until)
                took = time.monotonic() - began
                cut = await asyncio.to_thread(self._savepoints.cut, kernels, self._meta, final)
            done = True
        finally:
            if wanted != "no" and not (final and done):
                await variables.release(held)
        if wanted == "no":
            return cut
        seconds = {**cut.seconds, "variables": round(took, 4)}
        meta = {**cut.meta, "variables": found}
        return replace(cut, pause=cut.pause + took, seconds=seconds, meta=meta, beside=dumped)

    async def variables(self, final: bool, within: float, turn: Turn) -> Cut:
        """Variables alone, in the session's tree."""
        place = self._hosted.place
        kernels, done = self.running(), False
        until = time.monotonic() + within if final else None
        try:
            stands = await variables.hold(kernels, within)
            began = time.monotonic()
            await turn.come()
            async with self._hosted.changing:
                there = self.running()
                kernels = [kernel for kernel in kernels if kernel in there]
                await asyncio.to_thread(variables.clear, place.tree, self._hosted.kernels)
                namespaces = await variables.dump(
                    kernels, stands, place.tree, place.seen(place.home), until
                )
                cut = await asyncio.to_thread(
                    self._savepoints.cut, kernels, self._meta, final, namespaces
                )
            done = True
        finally:
            if not (final and done):
                await variables.release(kernels)
        return replace(cut, pause=time.monotonic() - began)


async def _be_alive(kernels: list[HostedKernel], place: Place) -> None:
    """A kernel that has just been killed is not told of yet: its image would be that of a shim
    alone, and the session would go back to that. Raises :class:`DumpFailed`.
    """

    async def has_ended(kernel: HostedKernel) -> bool:
        if kernel.relay is None:
            return False
        with suppress(GatewayError):  # it is not heard: it has said more than the gateway takes
            if not (await kernel.relay.call("status", wait=ANSWER))["alive"]:
                return True
        pid = kernel.relay.kernel_pid
        return pid is not None and not await asyncio.to_thread(place.runs, kernel.slot, pid)

    if any(await asyncio.gather(*map(has_ended, kernels))):
        raise DumpFailed("a kernel has just ended", hint="it is tried again")
