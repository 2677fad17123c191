"""Which incarnation of a session is the one: on disk before anybody acts on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gateway import durable
from sessionkeeper.session import Placed


@dataclass
class Epochs:
    """The session's epoch, which only grows, and where it is placed, in the file ``path``."""

    path: Path
    epoch: int = 0
    placed: Placed | None = None

    @classmethod
    def load(cls, path: Path) -> Epochs:
        """Read the file; a session without one has had no incarnation."""
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(path)
        placed = saved["placed"]
        # Whether it is up is for the node to say.
        where = Placed(placed["node"], placed["epoch"], up=False) if placed else None
        return cls(path, int(saved["epoch"]), where)

    def next(self, at_least: int = 0) -> int:
        """Begin a new epoch, above all that were and ``at_least``."""
        self.epoch = max(self.epoch, at_least) + 1
        self._save()
        return self.epoch

    def place(self, placed: Placed | None) -> None:
        """The session is there now; None: nowhere."""
        self.placed = placed
        self._save()

    def _save(self) -> None:
        placed = self.placed
        where = {"node": placed.node, "epoch": placed.epoch} if placed else None
        # An epoch used twice would make two incarnations one.
        durable.replace(self.path, json.dumps({"epoch": self.epoch, "placed": where}))
