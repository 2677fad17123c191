"""Which moment the newest committed checkpoint contains, from a session's status messages.

A status says whether a checkpoint is being made, and the number of the newest committed one. What
was there when one began is in it once the number changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["Coverage"]


class Coverage:
    """Fed with every status in order; moments are in seconds since the epoch."""

    def __init__(self) -> None:
        self.covered = -math.inf
        """Everything that was so at this moment is in a committed checkpoint."""
        self._began = -math.inf
        self._making = False
        self._number: int | None = None

    def feed(self, at: float, status: Mapping[str, Any]) -> None:
        """A status that was received at a moment."""
        making, checkpoint = bool(status["checkpointing"]), status["checkpoint"]
        if making and not self._making:
            # Of the very first status it is not known when the checkpoint began.
            self._began = at if self._seen else -math.inf
        self._making = making
        number = checkpoint["number"] if checkpoint else 0
        if self._number is not None and number != self._number:
            self.covered = self._began
        self._number = number

    def rests(self, since: float) -> bool:
        """Whether what was so at `since` is committed, and no checkpoint is being made."""
        return self.covered >= since and not self._making

    @property
    def _seen(self) -> bool:
        return self._number is not None
