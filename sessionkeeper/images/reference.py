"""What an image is called: ``[HOST/]NAME[:TAG][@DIGEST]``. Pure.

As Docker writes it, but for one thing: without a host it is an image that the gateway keeps, and
not one of a registry that nobody named.

Source: distribution/reference, and the OCI distribution specification 1.1 ("Pulling manifests").
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from sessionkeeper.images.errors import BadReference

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?|\[[0-9a-f:]+\](?::\d+)?")
LONGEST_NAME = 255


@dataclass(frozen=True)
class Reference:
    """``host`` is empty for an image that the gateway keeps; ``digest`` for one that may change."""

    host: str
    name: str
    tag: str = "latest"
    digest: str = ""

    def __str__(self) -> str:
        where = f"{self.host}/" if self.host else ""
        return f"{where}{self.name}:{self.tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def wanted(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    def pinned(self, digest: str) -> Reference:
        """The same image, which cannot change any more."""
        return replace(self, digest=digest)


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def parse(text: str) -> Reference:
    """Read a reference. Raises :class:`BadReference`."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise BadReference(f"{text!r}: {digest!r} is no digest such as sha256:…")
    first, slash, others = rest.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    host, path = (first, others) if is_host else ("", rest)
    if is_host and not _HOST.fullmatch(host):
        raise BadReference(f"{text!r}: {host!r} is no registry")
    name, colon, tag = path.partition(":")
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise BadReference(f"{text!r} is no name of an image")
    if colon and not _TAG.fullmatch(tag):
        raise BadReference(f"{text!r}: {tag!r} is no tag")
    return Reference(host, name, tag or "latest", digest)
