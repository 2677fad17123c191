"""What is asked of a session's kernels, wherever the session is or will be."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from gateway.errors import GatewayError, RemoteError
from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.checkpoints import Checkpoints
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.node import NodeLost
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.whereto import Whereto

SOON_AGAIN = 60.0
"""Seconds in which a kernel that was brought back, and asked nothing since, is not brought back
again: it would die of the same."""


MOST_IN_A_ROW = 3
"""Checkpoints that are tried for a kernel that runs out of memory as soon as it is restored."""


class SessionKernels:
    """The kernels of one session. Calls may come from anywhere in the event loop."""

    def __init__(
        self,
        presence: Presence,
        incarnations: Incarnations,
        channels: Channels,
        checkpoints: Checkpoints,
        whereto: Whereto,
    ) -> None:
        self._presence = presence
        self._incarnations = incarnations
        self._channels = channels
        self._checkpoints = checkpoints
        self._whereto = whereto
        self._brought_back: dict[str, tuple[float, int]] = {}
        self._began_anew: dict[str, tuple[float, int]] = {}
        self._in_a_row: dict[str, int] = {}

    async def start(self, kernel: dict[str, Any]) -> None:
        """Have a kernel started, as soon as the session runs somewhere; attaches its channel."""
        while True:
            here = await self._presence.up()
            if kernel["kernel_id"] in here.kernels:
                return  # it was among those that the session was opened with
            if not self._whereto.may_be_on(here.node):
                # Its secrets are not for that machine: the session goes to another one first.
                await self._presence.changes.watch()
                continue
            try:
                await here.ask("kernel.start", kernel)
            except NodeLost:
                continue
            except RemoteError as error:
                if error.code != "not_hosted":
                    raise
                while here is self._presence.here:
                    await self._presence.changes.watch()
                continue
            here.kernels.add(kernel["kernel_id"])
            if here is self._presence.here:
                self._incarnations.attach(here)
                return

    async def start_again(self, kernel: dict[str, Any]) -> None:
        """As :meth:`start`, for a kernel of which nobody waits to hear that it failed."""
        try:
            await self.start(kernel)
        except GatewayError as error:
            self._channels.end(kernel["kernel_id"], f"The kernel could not be started: {error}")
            raise

    async def stop(self, kernel_id: str) -> None:
        """End a kernel for good; whoever brings the session back later does not bring it."""
        self._channels.detach(kernel_id)
        if self._presence.here is not None:
            self._presence.here.kernels.discard(kernel_id)
        await self._presence.ask("kernel.stop", kernel_id)

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupt what the kernel runs: now, or when the session is up again."""
        if (here := self._presence.here) is not None:
            try:
                await here.ask("kernel.interrupt", {"kernel_id": kernel_id})
                return
            except NodeLost:
                pass
            except RemoteError:
                if here is self._presence.here:
                    raise  # else it was on its way while the session left
        self._presence.in_background(self._interrupt_later(kernel_id))

    def interrupt_again(self, kernel_id: str) -> None:
        """It was restored to before it was interrupted."""
        self._presence.in_background(self.interrupt(kernel_id))

    async def _interrupt_later(self, kernel_id: str) -> None:
        """What goes on in its middle is interrupted there; what would run again does not."""
        if self._presence.status.state != "moving":
            applied = self._channels.position(kernel_id).applied
            self._channels.give_up(kernel_id, applied, "Interrupted while its node was lost.")
        here = await self._presence.up()
        if kernel_id in here.kernels:
            with contextlib.suppress(NodeLost):
                await here.ask("kernel.interrupt", {"kernel_id": kernel_id})

    def only_wanted(self, here: Incarnation) -> None:
        """End what was deleted while the session was not up."""
        wanted = {kernel["kernel_id"] for kernel in self._channels.wanted()}
        for kernel_id in here.kernels - wanted:
            self._presence.in_background(self._presence.ask("kernel.stop", kernel_id))
        here.kernels &= wanted

    async def look_for_gone(self, here: Incarnation) -> None:
        """Deal with kernels that went before their channels were attached to ``here``."""
        with contextlib.suppress(NodeLost, GatewayError):  # the next connection tells
            for kernel_id in await self._incarnations.gone(here):
                if here is self._presence.here and not self.to_go_back(here):
                    self._channels.gone(kernel_id)

    def ended(self, kernel_id: str) -> None:
        """The kernel's process has ended by itself."""
        here = self._presence.here
        if here is not None and kernel_id in here.kernels:
            here.kernels.discard(kernel_id)
            self._presence.in_background(self._presence.ask("kernel.stop", kernel_id))

    def bring_back(
        self, kernel_id: str, *, passes: bool = False, ran_out: int | None = None
    ) -> bool:
        """The kernel's process was killed: have the session go back to its newest checkpoint.

        False: there is none with this kernel, or it was brought back a moment ago and died again.
        ``ran_out``: the number of the input in which it ran out of memory. If the checkpoint has it
        in the middle of that, it is interrupted there; if it ran out a moment ago as well, the
        checkpoint before that is taken.
        """
        here, now = self._presence.here, time.monotonic()
        manifest = self._checkpoints.chain.manifest
        applied = self._channels.position(kernel_id).applied
        last, asked = self._brought_back.get(kernel_id, (-SOON_AGAIN, 0))
        again = not passes and now - last < SOON_AGAIN and applied <= asked
        if here is not None and self.to_go_back(here):
            again = False  # it is only said twice
        if here is None or manifest is None or kernel_id not in manifest.processes:
            return False
        times = self._in_a_row[kernel_id] = self._in_a_row.get(kernel_id, 0) + 1 if again else 0
        if again and (ran_out is None or times > MOST_IN_A_ROW):
            return False
        unfit = "a kernel ran out of memory as soon as it was restored." if again else ""
        self._brought_back[kernel_id] = now, applied
        self._checkpoints.give_up(here.epoch, unfit)
        if ran_out is not None and self._checkpoints.has_begun(kernel_id, ran_out):
            self._incarnations.interrupt.add(kernel_id)
        self._presence.changes.note()
        return True

    def may_begin_anew(self, kernel_id: str) -> bool:
        """Whether a kernel is to that no checkpoint helps: not if it has just done so."""
        now, applied = time.monotonic(), self._channels.position(kernel_id).applied
        last, asked = self._began_anew.get(kernel_id, (-SOON_AGAIN, 0))
        self._began_anew[kernel_id] = now, applied
        return now - last >= SOON_AGAIN or applied > asked

    def interrupt_in(self, kernel_id: str, number: int) -> None:
        """Interrupt a kernel that turned out to be restored in the middle of that input; one of
        which it was known was interrupted before it went on.
        """
        if not self._checkpoints.has_begun(kernel_id, number):
            self._presence.in_background(self._presence.ask("kernel.interrupt", kernel_id))

    def to_go_back(self, here: Incarnation) -> bool:
        """Whether this incarnation is to be given up for the checkpoint before it."""
        return self._checkpoints.is_given_up(here.epoch)
