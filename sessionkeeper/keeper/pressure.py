"""A node that leaves soon, with much to save: what shares its processors waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionkeeper.keeper.node import Node

SAVING = 0.5
"""Seconds that a session's last checkpoint keeps a processor of its node busy, roughly (measured:
50 MB, two processors)."""

NEEDED = 2.0
"""Times what saving takes: with less time left nothing else is done beside it."""


class Pressure:
    """Of one node."""

    def __init__(self) -> None:
        self._unsaved = 0
        self._saved = asyncio.Event()

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """While a session's last checkpoint is made, or waited for."""
        self._unsaved += 1
        self._saved.clear()
        try:
            yield
        finally:
            self._unsaved -= 1
            if not self._unsaved:
                self._saved.set()

    def is_high(self, left: float) -> bool:
        """Whether the last checkpoints need all of the ``left`` seconds."""
        return left < NEEDED * SAVING * self._unsaved

    async def over(self) -> None:
        """Wait until no last checkpoint is made any more."""
        await self._saved.wait()


async def relieved(target: Node, nodes: Iterable[Node]) -> None:
    """Wait while one of ``nodes`` on the machine of ``target`` needs all of its processors to save
    what it has: what is saved already can be opened a moment later.
    """
    machine = target.hello.get("machine")
    for node in list(nodes):
        same = machine is not None and node.hello.get("machine") == machine
        left = node.left() if node.draining else 0.0
        if node is not target and same and node.draining and node.pressure.is_high(left):
            waited = {asyncio.ensure_future(node.pressure.over()), node.gone}
            try:
                await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                (waited - {node.gone}).pop().cancel()
