"""A machine that has joined a gateway: its key and its name there, in a file of its owner's.

The key is made here and never leaves this machine. The gateway lets it in with a join token, once;
from then on the machine shows that it has the key (`gateway.identity`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from gateway import durable
from gateway.dial import AgentLink
from gateway.identity import Identity, NodeKey
from sessionkeeper.errors import NotLetIn, Unavailable, UsageError

__all__ = ["Membership", "checked_url", "enrol", "is_address", "leave", "leave_now"]

SECONDS = 20.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Membership:
    """`url` is the gateway's, `gateway` what it calls itself, `tier` what it takes us for."""

    url: str
    gateway: str
    name: str
    tier: str
    key: str = field(repr=False)

    @property
    def identity(self) -> Identity:
        """What the gateway is shown."""
        return Identity(self.gateway, self.name, NodeKey(self.key))

    def save(self, file: Path) -> None:
        """Keep it, for its owner alone to read."""
        durable.replace(file, json.dumps(asdict(self)))

    @classmethod
    def load(cls, file: Path) -> Membership:
        """Raises UsageError for a file that is none."""
        try:
            return cls(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{file} does not say which gateway this machine has joined: {error}",
                hint="join anew: `sessionkeeper node join URL --token TOKEN`",
            ) from None


def enrol(
    url: str, token: str, name: str, tier: str | None, key: NodeKey, *, plain: bool = False
) -> Membership:
    """Join the gateway at `url` with a join token; through a proxy where the environment names one.

    It may be asked again with the same key, when no answer came. Raises UsageError (also for a
    gateway without TLS, unless `plain`, as session keys are sent over that connection), Unavailable
    when the gateway does not answer, NotLetIn with its words.
    """
    checked_url(url, plain=plain)
    wish: dict[str, Any] = {"name": name, "token": token, "key": key.public}
    wish |= {"signature": key.signs_joining(name, token), **({"tier": tier} if tier else {})}
    address = f"{url.rstrip('/')}/agents/join"
    try:
        answer = httpx.post(address, json=wish, timeout=SECONDS)
        said: dict[str, Any] = dict(answer.json())
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise Unavailable(f"the gateway at {url} does not answer: {error}") from None
    except (ValueError, TypeError):
        raise Unavailable(
            f"{address} answered {answer.status_code}, and not as a gateway does",
            hint="is the URL right? It is the gateway's, not that of JupyterLab",
        ) from None
    if answer.status_code != 201:
        words = str(said.get("message", answer.reason_phrase))
        kind = UsageError if said.get("code") == UsageError.code else NotLetIn
        raise kind(words, hint=str(said.get("hint", "")))
    return Membership(url.rstrip("/"), said["gateway"], said["name"], said["tier"], key.text)


def checked_url(url: str, *, plain: bool) -> None:
    """Raises UsageError unless it is a gateway's, and nobody can listen on the way there."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no gateway's URL, as https://gateway.example")
    if parts.scheme == "http" and parts.hostname not in _LOCAL and not plain:
        raise UsageError(
            f"{url} is without TLS: whoever is on the way there could read the sessions' keys",
            hint="use https://…, or say --without-tls on a network that is yours",
        )


def is_address(url: str) -> bool:
    """Whether a URL names a machine by its address, so that nothing else answers for it."""
    try:
        ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


async def leave(member: Membership) -> None:
    """Tell the gateway that this machine is none of its nodes any more. Raises `GatewayError`."""
    hello = {"node": member.name, "leaves": True}
    link = await AgentLink.connect(member.url, member.identity, hello, wait=SECONDS)
    await link.close()


def leave_now(member: Membership) -> None:
    """The same, outside of an event loop."""
    asyncio.run(leave(member))
