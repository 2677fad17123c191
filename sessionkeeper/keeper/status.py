"""What a session says about itself: to the UI's status bar, the command line and the log."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

State = Literal[
    "idle", "starting", "running", "moving", "recovering", "waiting", "failed", "hibernated"
]
AT_REST = frozenset({"idle", "waiting", "failed", "hibernated"})
"""States in which the session is nowhere, and not on its way."""
Level = Literal["info", "warning", "error"]
LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
KEPT_EVENTS = 50


@dataclass(frozen=True)
class CheckpointFacts:
    """The newest committed checkpoint. ``at`` in Unix seconds; sizes in bytes, ``stored`` what it
    added.
    """

    number: int
    at: float
    stored_bytes: int
    total_bytes: int
    pause_seconds: float


@dataclass
class Status:
    """One session's status. Listeners are called with its JSON form after every change."""

    session: str
    file: Path | None = None
    """Where the events are kept over restarts of this process."""
    called: Callable[[str], str] = str
    """What the user calls the kernel of that id."""
    state: State = "idle"
    node: str | None = None
    epoch: int = 0
    runtime: str | None = None
    engine: str | None = None
    checkpoint: CheckpointFacts | None = None
    checkpointing: bool = False
    saving: dict[str, float] = field(default_factory=dict)
    """Of a checkpoint that takes longer: ``bytes`` that have come from the node, in ``seconds``."""
    message: str = ""
    warnings: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, dict[str, Any]] = field(default_factory=dict)
    upkeep: dict[str, Any] = field(default_factory=dict)
    """What is done about old checkpoints, and what was: see :mod:`sessionkeeper.keeper.upkeep`."""

    def __post_init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(self._kept(), maxlen=KEPT_EVENTS)
        self._listeners: set[Callable[[dict[str, Any]], None]] = set()

    def update(self, **changes: Any) -> None:
        """Set fields, and tell the listeners if anything is new."""
        new = {name: value for name, value in changes.items() if getattr(self, name) != value}
        for name, value in new.items():
            setattr(self, name, value)
        if new:
            self._tell()

    def say(
        self, text: str, level: Level = "info", *, kernel: str | None = None, headline: bool = True
    ) -> None:
        """Something happened, to a kernel or to all, that the user should be able to read: kept in
        the events, and logged.
        """
        if kernel is not None:
            text = f"{self.called(kernel)}: {text}"
        log.log(LEVELS[level], "session %s: %s", self.session, text)
        self._events.append({"at": time.time(), "level": level, "text": text})
        if headline:
            self.message = text
        self._keep()
        self._tell()

    def warn(self, topic: str, text: str | None) -> None:
        """Set, or with None take back, the standing warning about ``topic``."""
        if self.warnings.get(topic) == text:
            return
        if text is None:
            self.warnings.pop(topic, None)
            self._tell()
        else:
            self.warnings[topic] = text
            self.say(text, "warning")

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call ``listener`` at every change; returns what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def json(self) -> dict[str, Any]:
        """Return what ``GET /api/sessionkeeper/status`` says."""
        return {
            "session": self.session,
            "state": self.state,
            "node": self.node,
            "epoch": self.epoch,
            "runtime": self.runtime,
            "engine": self.engine,
            "checkpoint": asdict(self.checkpoint) if self.checkpoint else None,
            "checkpointing": self.checkpointing,
            "saving": self.saving,
            "message": self.message,
            "warnings": list(self.warnings.values()),
            "events": list(self._events),
            "kernels": self.kernels,
            "upkeep": self.upkeep,
        }

    def _kept(self) -> list[dict[str, Any]]:
        try:
            kept: list[dict[str, Any]] = json.loads(self.file.read_text()) if self.file else []
        except (OSError, ValueError):
            return []
        return kept

    def _keep(self) -> None:
        if self.file is not None:
            # What happened matters less than that it goes on: a full disk is no reason to stop.
            with contextlib.suppress(OSError):
                temporary = self.file.with_suffix(".new")
                temporary.write_text(json.dumps(list(self._events)))
                temporary.rename(self.file)

    def _tell(self) -> None:
        status = self.json()
        for listener in list(self._listeners):
            listener(status)
