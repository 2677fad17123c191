"""Which incarnation of a session is the one: on disk before anybody acts on it."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from gateway import durable
from sessionkeeper.session import Placed


@dataclass
class Epochs:
    """The session's epoch, which only grows, and where it is placed, in the file ``path``; the id
    of the gateway that keeps it there, and in which ``run`` of it the session was here last.
    """

    path: Path
    epoch: int = 0
    placed: Placed | None = None
    gateway: str = field(default_factory=lambda: secrets.token_hex(8))
    run: str | None = None

    @classmethod
    def load(cls, path: Path) -> Epochs:
        """Read the file; a session without one has had no incarnation."""
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            epochs = cls(path)
            epochs._save()  # its id is the same from now on
            return epochs
        placed = saved["placed"]
        # Whether it is up is for the node to say.
        where = Placed(placed["node"], placed["epoch"], up=False) if placed else None
        epochs = cls(path, int(saved["epoch"]), where, run=saved.get("run"))
        if "gateway" in saved:
            epochs.gateway = saved["gateway"]
        else:
            epochs._save()
        return epochs

    def next(self, at_least: int = 0, run: str | None = None) -> int:
        """Begin a new epoch, above all that were and ``at_least``, in that ``run``."""
        self.epoch = max(self.epoch, at_least) + 1
        self.run = run or self.run
        self._save()
        return self.epoch

    def remember(self, run: str) -> None:
        """The session was here in that ``run``."""
        if run != self.run:
            self.run = run
            self._save()

    def place(self, placed: Placed | None) -> None:
        """The session is there now; None: nowhere."""
        self.placed = placed
        self._save()

    def _save(self) -> None:
        placed = self.placed
        where = {"node": placed.node, "epoch": placed.epoch} if placed else None
        # An epoch used twice would make two incarnations one.
        saved = {"epoch": self.epoch, "placed": where, "gateway": self.gateway, "run": self.run}
        durable.replace(self.path, json.dumps(saved))


def has_run(state: Path, session: str) -> bool:
    """Whether the session was kept by the gateway with this state directory."""
    return (state / "sessions" / session / "incarnation.json").exists()
