"""Which nodes are leaving, and when: written down, as who gave notice does not give it again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gateway import durable

log = logging.getLogger(__name__)

LONGEST_SECONDS = 86400.0
LONGEST_REASON = 200
By = Literal["operator", "node", "backend"]


@dataclass(frozen=True)
class Leaving:
    """``at`` in Unix seconds. ``reason`` is empty where an operator gave none."""

    at: float
    reason: str = ""

    def left(self) -> float:
        """Return how many seconds are left, at least 0."""
        return max(0.0, self.at - time.time())

    def words(self, node: str) -> str | None:
        """Return what the user reads of it now; None if nobody has said why."""
        return f"{node} goes in {self.left():.0f} s ({self.reason})" if self.reason else None


@dataclass(frozen=True)
class Word:
    """What a node says of itself. ``seconds`` None with a ``reason`` is advice: it may go, nobody
    knows when. Without a reason it takes back what it said.
    """

    reason: str = ""
    seconds: float | None = None


def word_of(event: Mapping[str, Any]) -> Word | None:
    """Return what an agent's event ``notice`` says; None: nothing that makes sense."""
    reason, seconds = event.get("reason"), event.get("seconds")
    if reason is None:
        return Word()
    shown = " ".join(str(reason).split())[:LONGEST_REASON]
    if seconds is None:
        return Word(shown)
    if not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_SECONDS:  # nor NaN
        return None
    return Word(shown or "it gave no reason", float(seconds))


class Notices:
    """By name of the node; each for one life of it (its ``instance``). What an operator says, the
    node, and the backend that started it are kept apart: none takes back another's. The earliest
    counts.
    """

    def __init__(self, file: Path | None = None) -> None:
        """``file`` keeps them over restarts of this process; None: nothing does."""
        self._file = file
        self._given: dict[str, tuple[str | None, dict[str, Leaving]]] = {}
        if file is not None and file.exists():
            try:
                kept = json.loads(file.read_text())
                self._given = {
                    name: (instance, {by: Leaving(**one) for by, one in given.items()})
                    for name, (instance, given) in kept.items()
                }
            except (ValueError, TypeError, AttributeError):
                log.error("%s cannot be read: who was leaving must be told again", file)

    def give(
        self,
        node: str,
        instance: str | None,
        seconds: float,
        reason: str = "",
        by: By = "operator",
    ) -> None:
        """The node leaves in so many seconds."""
        given = {**self._of(node, instance), by: Leaving(time.time() + seconds, reason)}
        self._given[node] = (instance, given)
        self._save()

    def leaving(self, node: str, instance: str | None) -> Leaving | None:
        """Return the notice that counts; None without one."""
        return min(self._of(node, instance).values(), key=lambda one: one.at, default=None)

    def withdraw(self, node: str, by: By | None = None) -> None:
        """It stays after all, or is gone. ``by``: whose word is taken back; None: everybody's."""
        if node not in self._given:
            return
        instance, given = self._given.pop(node)
        rest = {who: one for who, one in given.items() if by is not None and who != by}
        if rest:
            self._given[node] = (instance, rest)
        self._save()

    def _of(self, node: str, instance: str | None) -> dict[str, Leaving]:
        known, given = self._given.get(node, (None, {}))
        return given if known == instance else {}

    def _save(self) -> None:
        if self._file is not None:
            kept = {
                name: (instance, {by: asdict(one) for by, one in given.items()})
                for name, (instance, given) in self._given.items()
            }
            durable.replace(self._file, json.dumps(kept))
