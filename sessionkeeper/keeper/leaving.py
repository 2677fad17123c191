"""How a session leaves its node: it moves, hibernates, goes back, or its node is lost."""

from __future__ import annotations

import asyncio
import time

from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.checkpoints import Checkpoints
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.going_back import GoingBack
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.opening import Opening
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.sleep import Sleep
from sessionkeeper.keeper.whereto import Whereto
from sessionkeeper.keeper.words import Recovery


class Leaving:
    """See the module. ``recovery`` is what is known of why the session is on its way, if it is."""

    def __init__(
        self,
        nodes: Nodes,
        epochs: Epochs,
        channels: Channels,
        checkpoints: Checkpoints,
        incarnations: Incarnations,
        presence: Presence,
        opening: Opening,
        whereto: Whereto,
        going_back: GoingBack,
        sleep: Sleep,
    ) -> None:
        self.recovery: Recovery | None = None
        self._nodes = nodes
        self._epochs = epochs
        self._channels = channels
        self._checkpoints = checkpoints
        self._incarnations = incarnations
        self._presence = presence
        self._opening = opening
        self._whereto = whereto
        self._going_back = going_back
        self._sleep = sleep
        self._status = presence.status

    async def come_to_rest(self, here: Incarnation, *, save: bool) -> None:
        """End the compute, after a last checkpoint unless it is not to be saved. If it is, and
        cannot be, all stays as it is.
        """
        variables = self._opening.variables(self._nodes, here.node)
        if not save or await self._checkpoints.take_last(here.node, here.epoch, variables):
            self.leave()
            await self._incarnations.close_on(here.node, here.epoch)

    async def hibernate(self, here: Incarnation) -> None:
        """Save the session and end its compute; without a checkpoint it stays."""
        variables = self._opening.variables(self._nodes, here.node)
        if not await self._checkpoints.take_last(here.node, here.epoch, variables):
            self._sleep.wake()
            await self._incarnations.go_on(here)
            return
        self.recovery = None
        self.leave()
        await self._incarnations.close_on(here.node, here.epoch)
        if self._channels.pending():
            self._sleep.wake()  # asked while it was being saved
            return
        self._presence.show("hibernated")
        self._status.say("hibernates; what it is is kept, and the next cell brings it back")

    async def go_back(self, here: Incarnation) -> None:
        """A kernel died in a way that only a checkpoint mends: the next incarnation has one."""
        now = time.monotonic()
        again = self._checkpoints.exposed(now)
        self.recovery = Recovery(
            here.node.name, planned=False, began=now, repeated=again, cause="kernel_died"
        )
        damage = await self._incarnations.damage(here) or self._checkpoints.unfit or None
        self.leave()
        if damage is not None:
            await self._opening.skip(damage)

    async def end(self) -> None:
        """The user wants an earlier moment: what runs now ends."""
        placed = self._epochs.placed
        assert placed is not None
        await self._going_back.apply()
        self.recovery = self._going_back.recovery(placed.node)
        node = self._nodes.find(placed.node)
        if self._presence.here is None and node is not None:
            self._presence.in_background(self._incarnations.close_on(node, placed.epoch))
        self.leave()

    def lose(self) -> None:
        """The node that has the session is lost."""
        placed, here = self._epochs.placed, self._presence.here
        assert placed is not None
        began = time.monotonic()
        if here is not None:
            began -= max(0.0, asyncio.get_running_loop().time() - here.node.last_seen)
        last_seen = time.time() - (time.monotonic() - began) if here is not None else None
        again = self._checkpoints.exposed(began) if here is not None else 0.0
        self.recovery = Recovery(
            placed.node, planned=False, began=began, last_seen=last_seen, repeated=again
        )
        self.leave()
        self._status.say(f"{placed.node} is lost")

    async def move(self, here: Incarnation, target: Node) -> None:
        """Bring the session's last moment into the store, and leave the node for ``target``."""
        source = here.node
        self._whereto.heads_for(target)
        now = time.monotonic()
        self.recovery = Recovery(source.name, planned=True, began=now, cause="drain")
        self._status.warn("placement", None)
        self._presence.show("moving")
        self._status.say(f"moving from {source.name} to {target.name}")
        try:
            # One that was heard a moment ago may be dead all the same: ask before anything stops.
            await source.while_there(self._incarnations.is_on(target))
        except NodeLost:
            self.recovery = None
            self._whereto.heads_for(None)
            return
        variables = self._opening.variables(self._nodes, source, target)
        staging = asyncio.create_task(self._opening.stage(target))
        try:
            # The kernels run on meanwhile: what is there already need not be waited for frozen.
            await source.while_there(asyncio.wait({staging}, timeout=source.time_to_stage()))
            if len(source.hosting) > 1:
                staging.cancel()  # the deadline is that of all of them
            with source.pressure.saving():
                saved = await self._checkpoints.take_last(source, here.epoch, variables)
            if not saved:
                self.recovery.saved = False
                text = f"{source.name} is leaving without a last checkpoint; the newest is taken"
                self._status.say(text, "warning")
        finally:
            staging.cancel()
        self.leave()

    async def rebalance(self, here: Incarnation, target: Node) -> None:
        """Move to ``target``, which costs less, if nothing begins to run and nothing goes wrong on
        the way; else it stays.
        """
        source = here.node
        self._whereto.moves()
        self._whereto.heads_for(target)
        variables = self._opening.variables(self._nodes, source, target)
        began = time.monotonic()
        try:
            await source.while_there(self._opening.stage(target))
            if not self._channels.activity().busy and target.ready:
                if await self._checkpoints.take(
                    here.node, here.epoch, final=True, variables=variables
                ):
                    self.recovery = Recovery(
                        source.name, planned=True, began=began, cause="rebalance"
                    )
                    self._presence.show("moving")
                    self._status.say(
                        f"moving from {source.name} to {target.name}, which costs less"
                    )
                else:
                    await self._incarnations.go_on(here)
        finally:
            if self.recovery is None:
                self._whereto.heads_for(None)
                here.began = time.monotonic()  # not again and again: each try stops the kernels
        if self.recovery is not None:
            self.leave()

    def leave(self) -> None:
        """This incarnation is over: it is not heard any more, and its node is told to end it."""
        here, self._presence.here = self._presence.here, None
        self._epochs.place(None)
        self._status.warn("notice", None)
        if here is not None:
            self._incarnations.end(here)
            self._presence.in_background(self._incarnations.close_on(here.node, here.epoch))
        planned = self.recovery is not None and self.recovery.planned
        self._presence.show("moving" if planned else "recovering")
