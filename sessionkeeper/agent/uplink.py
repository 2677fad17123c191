"""The agent's connection to the gateway, as the sessions on the node see it: there, or not."""

from __future__ import annotations

import contextlib
from typing import Any

from gateway.dial import AgentLink
from gateway.errors import AgentGone


class Uplink:
    """``breaks`` counts how often the connection ended: who was asked for something before the
    last time is not waited for any more.
    """

    def __init__(self) -> None:
        self.link: AgentLink | None = None
        self.breaks = 0

    def lost(self) -> None:
        """The connection has ended."""
        self.link = None
        self.breaks += 1

    def send_frame(self, address: str, frame: bytes) -> None:
        """Pass on a frame of a shim; without a connection it comes again, by its number."""
        if self.link is not None:
            self.link.send_frame(address, frame)

    def tell(self, event: dict[str, Any]) -> None:
        """Say something that the next hello says anyway, if there is a connection."""
        if self.link is not None:
            with contextlib.suppress(AgentGone):
                self.link.send_event(event)

    async def hang_up(self) -> None:
        """End the connection; the agent makes another one and says anew what it has."""
        if self.link is not None:
            await self.link.close()
