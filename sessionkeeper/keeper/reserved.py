"""Nodes that were started for one session, and are for nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["NOBODY", "Reserved"]

NOBODY = ""


class Reserved:
    """Which node is for whom. ``ours`` tells from a node's name that it is for one session, though
    it may not be known yet for which; ``changed`` is called when that is.
    """

    def __init__(
        self,
        ours: Callable[[str], bool] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._ours = ours
        self._changed = changed
        self._sessions: Mapping[str, str] = {}

    @property
    def on_demand(self) -> bool:
        """Whether nodes are started when sessions want them."""
        return self._ours is not None

    def of(self, node: str) -> str | None:
        """Return the session that the node is for; :data:`NOBODY` while that is not known; None:
        it is for all.
        """
        found = self._sessions.get(node)
        unknown = found is None and self._ours is not None and self._ours(node)
        return NOBODY if unknown else found

    def has(self, session: str) -> bool:
        """Whether there is a node for that session."""
        return session in self._sessions.values()

    def are(self, sessions: Mapping[str, str]) -> None:
        """These are all there are: the session of each node, by name."""
        before, self._sessions = self._sessions, dict(sessions)
        if self._sessions != before:
            self._changed()
