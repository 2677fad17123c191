"""What variables a session has, for who exports it. Noted before it hibernates, as nobody can be
asked then.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway import durable
from gateway.errors import GatewayError
from gateway.kernels import Kernels
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.node import NodeLost

FILE = "variables.json"
SECONDS = 10.0


class Inventory:
    """Of one session; ``home`` is its directory at this gateway."""

    def __init__(self, home: Path, keeper: SessionKeeper, kernels: Kernels) -> None:
        self._file = home / FILE
        self._keeper = keeper
        self._kernels = kernels

    async def look(self) -> dict[str, Any]:
        """Return ``{"as_of": Unix seconds, "kernels": [...]}``: what is there now, or what was
        noted last if it has no compute.
        """
        node = self._keeper.node
        if node is None:
            return self._noted()
        there = [one for one in self._kernels.records.values() if one.state != "ended"]
        found = await asyncio.gather(*(self._ask(node, one.id, one.name) for one in there))
        report = {"as_of": time.time(), "kernels": found}
        with suppress(OSError):
            durable.replace(self._file, json.dumps(report))
        return report

    async def note(self) -> None:
        """It is about to be without compute."""
        with suppress(GatewayError, NodeLost, TimeoutError):
            async with asyncio.timeout(SECONDS):
                await self.look()

    async def _ask(self, node: Any, kernel_id: str, kernelspec: str) -> dict[str, Any]:
        facts = {
            "kernel": kernel_id,
            "kernelspec": kernelspec,
            "called": self._keeper.status.called(kernel_id),
        }
        if self._kernels.channel(kernel_id).execution_state != "idle":
            return {**facts, "why": "it is busy"}
        call = {"session": self._keeper.session, "kernel_id": kernel_id}
        try:
            return {**facts, **await node.call("kernel.variables", call, SECONDS)}
        except (GatewayError, NodeLost) as error:
            return {**facts, "why": str(error)}

    def _noted(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._file.read_text())
        except (OSError, ValueError):
            why = (
                "they are in the processes' images, and nobody noted them; resume it and ask again"
            )
            return {"as_of": None, "kernels": [], "why": why}
        return found
