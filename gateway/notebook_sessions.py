"""Notebook sessions: which notebook has which kernel. Kept over restarts, in one JSON file."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway import durable
from gateway.errors import NotebookSessionNotFound


@dataclass
class NotebookSession:
    """A notebook-kernel pair (Jupyter calls it a session)."""

    id: str
    path: str
    name: str
    type: str
    kernel_id: str


class NotebookSessions:
    """All of them, in `file`; every change is written down before it is answered."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sessions: dict[str, NotebookSession] = {}
        if file.exists():
            for item in json.loads(file.read_text()):
                self._sessions[item["id"]] = NotebookSession(**item)

    def all(self) -> list[NotebookSession]:
        return list(self._sessions.values())

    def get(self, session_id: str) -> NotebookSession:
        """Raises `NotebookSessionNotFound`."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise NotebookSessionNotFound(session_id) from None

    def by_path(self, path: str) -> NotebookSession | None:
        return next((s for s in self._sessions.values() if s.path == path), None)

    def path_of(self, kernel_id: str) -> str | None:
        """The notebook that has the kernel; one of them when there are more."""
        return next((s.path for s in self._sessions.values() if s.kernel_id == kernel_id), None)

    def create(self, path: str, name: str, kind: str, kernel_id: str) -> NotebookSession:
        """A notebook has one session: an older one of the same path is replaced."""
        older = self.by_path(path)
        session = NotebookSession(
            older.id if older else str(uuid.uuid4()), path, name, kind, kernel_id
        )
        self._sessions[session.id] = session
        self._save()
        return session

    def take_over(self, session: NotebookSession) -> None:
        """One of another gateway, unless its notebook has one here."""
        if self.by_path(session.path) is None and session.id not in self._sessions:
            self._sessions[session.id] = session
            self._save()

    def update(self, session_id: str, **changes: Any) -> None:
        session = self.get(session_id)
        for name, value in changes.items():
            setattr(session, name, value)
        self._save()

    def remove(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)
        self._save()

    def kernel_gone(self, kernel_id: str) -> None:
        """The kernel was deleted: so are its notebook sessions."""
        gone = [session.id for session in self.all() if session.kernel_id == kernel_id]
        for session_id in gone:
            del self._sessions[session_id]
        if gone:
            self._save()

    def _save(self) -> None:
        durable.replace(self._file, json.dumps([asdict(s) for s in self._sessions.values()]))
