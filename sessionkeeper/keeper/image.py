"""The image that a session's kernels run in, as its gateway knows it: by its digest, and by the
kernels that a node found in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway import durable
from sessionkeeper.images.reference import parse

log = logging.getLogger(__name__)


class SessionImage:
    """``reference`` is None for a session that runs on the nodes' own root. What was found in the
    image, or on the nodes, is kept in ``file``, so that a list of kernels needs no node.
    ``tickets`` makes what a node shows to have an image of this gateway.
    """

    def __init__(
        self, reference: str | None, file: Path, tickets: Callable[[str], str] = lambda digest: ""
    ) -> None:
        self.reference = reference
        self._tickets = tickets
        self._file = file
        self._specs: dict[str, Any] | None = None

    @property
    def digest(self) -> str | None:
        """What nodes call it; None: there is no image."""
        return parse(self.reference).digest or None if self.reference else None

    @property
    def ticket(self) -> str:
        """What a node shows to have it from here."""
        return self._tickets(self.digest or "")

    def learn(self, specs: dict[str, Any]) -> None:
        """A node says which kernels can be started in it."""
        if specs != self._specs:
            self._specs = specs
            durable.replace(self._file, json.dumps(specs))

    def kernelspecs(self) -> dict[str, Any]:
        """Return them; empty while no node has looked."""
        if self._specs is None:
            try:
                self._specs = json.loads(self._file.read_text())
            except FileNotFoundError:
                self._specs = {}
            except ValueError as error:
                log.error("%s cannot be read: %s", self._file, error)
                self._specs = {}
        return self._specs or {}
