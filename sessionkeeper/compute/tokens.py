"""What the agent of a session's own compute shows the gateway: good for its node's name alone.

It runs beside user code, so it must open nothing else. It is made of the agents' token, and so
needs to be kept nowhere: a gateway that is started again knows it as well.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["name_of", "token_for"]


def token_for(secret: str, name: str) -> str:
    """Return the token for the node ``name``; ``secret`` is the agents' token."""
    mark = hmac.new(secret.encode(), f"compute\0{name}".encode(), hashlib.sha256)
    return f"{name}.{mark.hexdigest()}"


def name_of(secret: str, token: str) -> str | None:
    """Return the node whose token that is; None: it is none of :func:`token_for`."""
    name, _, _ = token.rpartition(".")
    return name if name and hmac.compare_digest(token, token_for(secret, name)) else None
