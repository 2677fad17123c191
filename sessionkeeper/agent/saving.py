"""The checkpoints of one session on this node: whose turn it is, the cut, the store."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from typing import Any

from checkpoint.manifest import encode_body
from sessionkeeper.agent import beside, unsaved, variables
from sessionkeeper.agent.cuts import Cuts
from sessionkeeper.agent.errors import KernelBusy
from sessionkeeper.agent.hosted import HostedSession
from sessionkeeper.agent.plan import Unsaved
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.taken import Cut, Saved
from sessionkeeper.agent.turns import Last, Turn, Turns

CHANGES = 8 << 20
"""Bytes that a checkpoint is thought to add, until one did."""


class Saving:
    """One checkpoint after the other. ``meta`` is what one says of the session."""

    def __init__(
        self,
        hosted: HostedSession,
        savepoints: Savepoints,
        meta: Callable[[], Mapping[str, Any]],
        turns: Turns,
    ) -> None:
        self._hosted = hosted
        self._savepoints = savepoints
        self._turns = turns
        self._cuts = Cuts(hosted, savepoints, meta)
        self._one = asyncio.Lock()
        self._added = CHANGES

    async def thaw(self) -> None:
        """Let the kernels go on if they stand still for a last checkpoint."""
        async with self._one:
            await asyncio.to_thread(self._hosted.place.thaw, self._hosted.slots())

    async def checkpoint(
        self,
        final: bool,
        within: float = 0.0,
        wanted: beside.Wanted = "no",
        arrive: float | None = None,
        left: float | None = None,
        work: float = 0.0,
    ) -> dict[str, Any]:
        """Take a checkpoint and store it. Returns its body (base64), what it cost, and what of the
        kernels is not in it.

        ``left``: the node goes in so many seconds. Of those that want a last checkpoint then, the
        node saves what is worth most, by the ``work`` (seconds) that the newest one lacks; raises
        :class:`NoTimeLeft` for others.

        Where that can be done between two cells only, a running one has ``within`` seconds to end,
        and the memory of a kernel that was restored lazily ``arrive`` (or as long) to be there;
        raises :class:`KernelBusy` when that is not enough. ``wanted``: variables beside images.
        """
        arrive = within if arrive is None else arrive
        until = None if left is None else asyncio.get_running_loop().time() + left
        async with self._one:
            size = await asyncio.to_thread(self._size)
            last = None
            if until is not None:
                fresh = min(size, self._added) if self._savepoints.goes_on else size
                last = Last(Unsaved(self._hosted.session, size, fresh, work), until)
            turn = self._turns.turn(urgent=final, last=last)
            try:
                if not await asyncio.to_thread(self._savepoints.arrived, arrive):
                    raise KernelBusy("memory of a kernel is still on its way from the checkpoint")
                cut = await self._cut(turn, final, within, wanted, hurried=last is not None)
                began = time.monotonic()
                saved = await self._save(cut, turn, final)
            finally:
                turn.over()
        self._added = saved.stored
        self._measure(size, saved, time.monotonic() - began)
        return {
            "body": base64.b64encode(encode_body(saved.body)).decode(),
            "pause": saved.pause,
            "stored": saved.stored,
            "seconds": saved.seconds,
            "unsaved": unsaved.told(cut.tree, self._hosted.place.home),
            "ignored": unsaved.ignored(cut.tree, self._hosted.place.home),
            "lost": {k: d["lost"] for k, d in cut.namespaces.items() if d.get("lost")},
        }

    async def _cut(
        self, turn: Turn, final: bool, within: float, wanted: beside.Wanted, hurried: bool
    ) -> Cut:
        try:
            await asyncio.to_thread(self._savepoints.prepare, self._cuts.running(), hurried)
            if self._hosted.place.engine == "criu":
                return await self._cuts.processes(final, within, wanted, turn)
            return await self._cuts.variables(final, within, turn)
        finally:
            await asyncio.to_thread(self._savepoints.unprepare)

    async def _save(self, cut: Cut, turn: Turn, final: bool) -> Saved:
        loop = asyncio.get_running_loop()
        if not final:
            turn.over()  # what follows is done beside the next one's

        def compared() -> None:
            loop.call_soon_threadsafe(turn.over)

        try:
            return await asyncio.to_thread(self._savepoints.save, cut, compared)
        except BaseException:
            if final:
                await asyncio.to_thread(self._hosted.place.thaw, self._hosted.slots())
                await variables.release(cut.kernels)
            raise

    def _size(self) -> int:
        return self._hosted.place.dump_size([kernel.slot for kernel in self._cuts.running()])

    def _measure(self, size: int, saved: Saved, seconds: float) -> None:
        compared = saved.seconds.get("encode", 0.0)
        self._turns.measured.dumped(size, saved.pause + compared)
        self._turns.measured.sent(saved.stored, seconds - compared)
