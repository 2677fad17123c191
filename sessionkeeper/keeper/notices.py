"""Which nodes are leaving, and when: written down, as who gave notice does not give it again."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from gateway import durable

log = logging.getLogger(__name__)


class Notices:
    """By name of the node; each for one life of it (its ``instance``)."""

    def __init__(self, file: Path | None = None) -> None:
        """``file`` keeps them over restarts of this process; None: nothing does."""
        self._file = file
        self._given: dict[str, tuple[str | None, float]] = {}
        if file is not None and file.exists():
            try:
                kept = json.loads(file.read_text())
                self._given = {name: (instance, at) for name, (instance, at) in kept.items()}
            except (ValueError, TypeError, AttributeError):
                log.error("%s cannot be read: who was leaving must be told again", file)

    def give(self, node: str, instance: str | None, seconds: float) -> None:
        """The node leaves in so many seconds."""
        self._given[node] = (instance, time.time() + seconds)
        self._save()

    def left(self, node: str, instance: str | None) -> float | None:
        """Return how many seconds are left to the node, at least 0; None without a notice."""
        given, at = self._given.get(node, (None, 0.0))
        if node not in self._given or given != instance:
            return None
        return max(0.0, at - time.time())

    def withdraw(self, node: str) -> None:
        """It stays after all, or is gone."""
        if self._given.pop(node, None) is not None:
            self._save()

    def _save(self) -> None:
        if self._file is not None:
            durable.replace(self._file, json.dumps(self._given))
