"""What the session of a hub's server is called at the gateway. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256

__all__ = ["directory_name", "session_names"]

_NOT_PLAIN = re.compile(r"[^a-z0-9]+")
_SHOWN = 40
"""Characters of a user's and a server's name that stay readable."""


def session_names(prefix: str, user: str, server: str, image: str) -> Iterator[str]:
    """The names to try, in order, without end: all are different from those of any other user,
    server or image. The first one can be known without asking anybody, so a hub that lost its
    database, or was killed in mid-spawn, finds the session again.

    Each image has a session of its own: a process of one image is nothing that another could run.
    """
    number = 0
    while True:
        yield f"{prefix}-{_plain(user, server)}-{_digest(user, server, image, str(number))}"
        number += 1


def directory_name(user: str, server: str) -> str:
    """Where the hub keeps what belongs to the UI server of that server."""
    return f"{_plain(user, server)}-{_digest(user, server)}"


def _plain(user: str, server: str) -> str:
    shown = f"{user}-{server}" if server else user
    return _NOT_PLAIN.sub("-", shown.lower()).strip("-")[:_SHOWN].rstrip("-") or "x"


def _digest(*parts: str) -> str:
    # Names may have any character: lengths tell where one ends.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(text.encode()).hexdigest()[:12]
