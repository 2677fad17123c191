"""A session that is up on a node: since it was opened there, or taken up after a restart of the
gateway.
"""

from __future__ import annotations

import logging

from gateway.errors import GatewayError
from sessionkeeper import session as steps
from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.checkpoints import Checkpoints
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.leaving import Leaving
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.session_kernels import SessionKernels

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR = 1.0


class Settling:
    """See the module."""

    def __init__(
        self,
        nodes: Nodes,
        epochs: Epochs,
        channels: Channels,
        checkpoints: Checkpoints,
        incarnations: Incarnations,
        presence: Presence,
        kernels: SessionKernels,
        leaving: Leaving,
    ) -> None:
        self._nodes = nodes
        self._epochs = epochs
        self._channels = channels
        self._checkpoints = checkpoints
        self._incarnations = incarnations
        self._presence = presence
        self._kernels = kernels
        self._leaving = leaving
        self._status = presence.status
        self._left: frozenset[str] = frozenset()

    def expect(self) -> None:
        """Look for what ran when this process ended."""
        self._left = frozenset(kernel["kernel_id"] for kernel in self._channels.wanted())
        if self._epochs.placed is not None:
            self._nodes.expect(self._epochs.placed.node)

    async def take_up(self) -> None:
        """After a restart of this process: the node that has the session says so, or is lost."""
        placed = self._epochs.placed
        assert placed is not None
        node = self._nodes.find(placed.node)
        self._presence.show("recovering")
        if node is None or node.connection is None:
            await self._presence.changes.idle()
            return
        try:
            here = await self._incarnations.take_up(node, placed.epoch)
        except GatewayError as error:
            log.info(
                "session %s was not taken up on %s: %s", self._status.session, node.name, error
            )
            if error.code == "not_hosted" or not error.retryable:
                self._leaving.lose()
            else:
                await self._presence.changes.idle(PAUSE_AFTER_ERROR)
            return
        self.settle(here)
        for kernel in self._channels.wanted():
            if kernel["kernel_id"] in self._left - here.kernels:
                self._presence.in_background(self._kernels.start_again(kernel))
        self._status.say(f"is still on {node.name}: the gateway was started again")

    def settle(self, here: Incarnation) -> None:
        """It is up here."""
        self._epochs.place(steps.Placed(here.node.name, here.epoch, up=True))
        self._presence.here = here
        self._checkpoints.begin()
        self._kernels.only_wanted(here)
        self._incarnations.attach(here)
        self._presence.in_background(self._kernels.look_for_gone(here))
        node = here.node
        self._status.update(
            node=node.name, epoch=here.epoch, runtime=node.runtime, engine=node.engine
        )
        self._presence.show("running")
        self._status.warn("notice", node.notice)
