"""How a node shows who it is: with a key of its own, and never with the same words twice. No I/O.

A node that has joined opens its connection with its name. The gateway answers with a *challenge*:
what it calls itself, and a number that it has never said before. The node signs both, with its
name (Ed25519, RFC 8032); the private key never leaves the node. A signature is good for one
connection to one gateway: who overhears it, or is another gateway that the node joined as well,
gains nothing. It does not keep out who sits in the middle of a connection: TLS does.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from gateway.errors import Unauthorized, WrongGateway

SCHEME = "node"
"""Of the `Authorization` header: `node NAME`."""

_HELLO, _JOIN = b"sessionkeeper node hello 1", b"sessionkeeper node join 1"


@dataclass(frozen=True)
class NodeKey:
    """A node's private key; `text` (43 characters) is all there is of it."""

    text: str = field(repr=False)

    @classmethod
    def new(cls) -> NodeKey:
        """One that nobody has."""
        return cls(_encode(Ed25519PrivateKey.generate().private_bytes_raw()))

    @property
    def public(self) -> str:
        """What the gateway knows of it."""
        return _encode(self._private().public_key().public_bytes_raw())

    def signs_joining(self, name: str, token: str) -> str:
        """Shows that who joins as `name` with `token` has the key."""
        return self._sign(_JOIN, name, token)

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(_decode(self.text))

    def _sign(self, purpose: bytes, *words: str) -> str:
        return _encode(self._private().sign(_message(purpose, *words)))


@dataclass(frozen=True)
class Identity:
    """Who a node is to the gateway that calls itself `gateway`."""

    gateway: str
    name: str
    key: NodeKey

    def answer(self, challenge: Mapping[str, Any]) -> str:
        """The signature that the gateway asks for.

        Raises `WrongGateway` if it is another one than the node has joined.
        """
        said = str(challenge.get("gateway"))
        if said != self.gateway:
            raise WrongGateway(f"This is not the gateway that {self.name} has joined.")
        return self.key._sign(_HELLO, said, str(challenge.get("nonce")), self.name)


@dataclass(frozen=True)
class Challenge:
    """What a gateway wants signed, once."""

    gateway: str
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def event(self) -> dict[str, str]:
        """What the node is told."""
        return {"event": "challenge", "gateway": self.gateway, "nonce": self.nonce}

    def check(self, name: str, public: str, signature: object) -> None:
        """Raises `Unauthorized` unless the node `name`, whose key is `public`, has signed this."""
        if not _is_signed(public, signature, _HELLO, self.gateway, self.nonce, name):
            raise Unauthorized(f"Whoever calls itself {name} does not have its key.", hint=_REJOIN)


def check_joining(name: str, token: str, public: str, signature: object) -> None:
    """Raises `Unauthorized` unless who joins has the key that it shows."""
    if not _is_signed(public, signature, _JOIN, name, token):
        raise Unauthorized("Whoever joins does not have the key that it shows.", hint=_REJOIN)


def _is_signed(public: str, signature: object, purpose: bytes, *words: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(_decode(public))
        key.verify(_decode(str(signature)), _message(purpose, *words))
    except (ValueError, InvalidSignature):
        return False
    return True


def _message(purpose: bytes, *words: str) -> bytes:
    """Each with its length before it, so that no two lists of words are one message."""
    parts = (purpose, *(word.encode() for word in words))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


_REJOIN = "Join anew on that machine: `sessionkeeper node join URL --token TOKEN`."
