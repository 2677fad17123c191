"""What leases nodes were granted, for a gateway that is started again.

A node that had a session then may be gone meanwhile. It has one lease to come back, its own: less
would take a session from a node that still has it, more would let its user wait for nothing.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from gateway import durable

log = logging.getLogger(__name__)


class Granted:
    """Seconds, by name of the node. ``file``: None, if nothing is to outlive this process."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, float] = {}
        if file is not None and file.exists():
            try:
                said = json.loads(file.read_text())
                self._known = {str(name): float(seconds) for name, seconds in said.items()}
            except (ValueError, TypeError, AttributeError):
                log.error("%s cannot be read: nodes have the usual lease to come back", file)

    def of(self, name: str) -> float | None:
        """Return the lease of a node; None: nobody knows."""
        return self._known.get(name)

    def are(self, leases: dict[str, float]) -> None:
        """The nodes there are have these."""
        if leases == self._known:
            return
        self._known = leases
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            durable.replace(self._file, json.dumps(leases))
