"""What a node shows the gateway to have an image: good for that image, and for nothing else. Pure.

A node may have joined with a key of its own, and has no token then; and no node is to have images
of sessions that are not its own.
"""

from __future__ import annotations

import hashlib
import hmac


def ticket_for(digest: str, secret: str) -> str:
    """Return the ticket for the image with this digest, of a gateway with this secret."""
    made = hmac.new(secret.encode(), f"image {digest}".encode(), hashlib.sha256).hexdigest()
    return f"{digest}.{made}"


def image_of(ticket: str, secret: str) -> str | None:
    """Return the digest of the image that the ticket is for; None: it is none."""
    digest = ticket.rpartition(".")[0]
    good = hmac.compare_digest(ticket_for(digest, secret).encode(), ticket.encode())
    return digest if good else None
