"""What is agreed of a session when it is created, as JSON in the store and at its gateway. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from checkpoint.repository import checked
from sessionkeeper.errors import UsageError
from sessionkeeper.placement import TIER_ORDER

LONGEST, LONGEST_IMAGE = 256, 512
"""Characters in an owner, and in the name of an image."""

MOST_CORES = 1 << 16

MOST_VARIABLES, LONGEST_VALUE = 64, 4096
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Registration:
    """``guarantee`` and ``limit`` are bytes of memory: what a node must have free for the session,
    and what all of its kernels together may use at most (None: what the node allows). ``cores`` is
    what a node must have free of them. ``created`` is in Unix seconds. ``tokens`` are hashes: who
    has one of the tokens is the session's user. ``environment``: names and values that kernels
    which are started have in theirs.
    ``tiers_chosen``: somebody named the tiers; ``sensitive``: somebody said that it has secrets.
    """

    name: str
    owner: str = ""
    image: str | None = None
    tiers: tuple[str, ...] = TIER_ORDER
    guarantee: int = 0
    limit: int | None = None
    created: float = 0.0
    hibernated: bool = False
    tokens: tuple[str, ...] = ()
    cores: float = 0.0
    tiers_chosen: bool = False
    sensitive: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """Inverse of :func:`decode`."""
        return json.dumps(asdict(self)).encode()

    def report(self) -> dict[str, Any]:
        """Return what may be told of it: all but the tokens."""
        facts = asdict(self)
        del facts["tokens"]
        return facts

    def may_use(self, secrets: bool) -> tuple[str, ...]:
        """Return the tiers it may use. With ``secrets`` in its environment that is no volunteer's
        machine, unless somebody has said so.
        """
        if self.tiers_chosen or not (secrets or self.sensitive):
            return self.tiers
        return tuple(tier for tier in self.tiers if tier != "volunteer")

    def with_token(self, token: str, *, alone: bool = False) -> Registration:
        """Who has this token is its user, too (``alone``: and nobody else any more)."""
        kept = () if alone else self.tokens
        return replace(self, tokens=tuple(dict.fromkeys((*kept, hashed(token)))))


@dataclass(frozen=True)
class Memory:
    """What a session gets that asks for nothing else: ``guarantee`` and ``limit`` in bytes."""

    guarantee: int = 0
    limit: int | None = None

    def fill(self, wanted: Registration) -> Registration:
        """Return ``wanted`` with what it does not say."""
        guarantee = wanted.guarantee or self.guarantee
        limit = wanted.limit
        if limit is None and self.limit is not None:
            limit = max(self.limit, guarantee)
        elif limit is not None:
            guarantee = min(guarantee, limit)
        return replace(wanted, guarantee=guarantee, limit=limit)


def hashed(token: str) -> str:
    """Return what is kept of a token. It is random and long, so nothing slow is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def decode(data: bytes) -> Registration:
    """Read what :meth:`Registration.encode` wrote, or a later version of this program. Raises
    ``ValueError``.
    """
    try:
        said = json.loads(data)
        known = {f.name: said[f.name] for f in fields(Registration) if f.name in said}
        tiers, tokens = tuple(known.get("tiers", TIER_ORDER)), tuple(known.get("tokens", ()))
        known.setdefault("tiers_chosen", tiers != TIER_ORDER)
        environment = tuple((str(k), str(v)) for k, v in known.get("environment", ()))
        return Registration(
            **{**known, "tiers": tiers, "tokens": tokens, "environment": environment}
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a registration: {error}") from None


def asked_for(wish: Mapping[str, Any], name: str, now: float) -> Registration:
    """Return what a request asks for, under ``name`` when it does not say. Raises ``UsageError``
    that names what is wrong.
    """
    sizes = {"guarantee", "limit", "cores"}
    allowed = sizes | {"name", "owner", "image", "tiers", "environment", "secrets"}
    if unknown := set(wish) - allowed:
        raise UsageError(f"a session has no {min(unknown)!r}; it has {', '.join(sorted(allowed))}")
    given = wish.get("name", name)
    try:
        checked(given)
    except (ValueError, TypeError):
        raise UsageError(
            f"{given!r} is no name for a session",
            hint="letters, digits, '.', '_' and '-', at most 128, and no '.' first",
        ) from None
    guarantee, limit = _size(wish, "guarantee") or 0, _size(wish, "limit")
    if limit is not None and limit < guarantee:
        raise UsageError("the limit is less than the guarantee")
    return Registration(
        given,
        owner=_text(wish, "owner") or "",
        image=_text(wish, "image", LONGEST_IMAGE),
        tiers=_tiers(wish.get("tiers")),
        guarantee=guarantee,
        limit=limit,
        cores=_number(wish, "cores"),
        environment=_environment(wish.get("environment", {})),
        created=now,
        tiers_chosen=wish.get("tiers") is not None,
        sensitive=_flag(wish, "secrets"),
    )


def _text(wish: Mapping[str, Any], what: str, longest: int = LONGEST) -> str | None:
    said = wish.get(what)
    if said is not None and not (isinstance(said, str) and len(said) <= longest):
        raise UsageError(f"{what} must be text of {longest} characters at most")
    return said or None


def _size(wish: Mapping[str, Any], what: str) -> int | None:
    said = wish.get(what)
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int) or said <= 0:
        raise UsageError(f"{what} must be a number of bytes, above 0")
    return said


def _number(wish: Mapping[str, Any], what: str) -> float:
    said = wish.get(what, 0)
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < MOST_CORES:
        raise UsageError(f"{what} must be a number from 0 on")
    return float(said)


def _flag(wish: Mapping[str, Any], what: str) -> bool:
    said = wish.get(what, False)
    if not isinstance(said, bool):
        raise UsageError(f"{what} must be true or false")
    return said


def _environment(said: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(said, dict) or len(said) > MOST_VARIABLES:
        raise UsageError(f"environment must be an object of {MOST_VARIABLES} values at most")
    for name, value in said.items():
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"environment: {name!r} is no name of a variable")
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or "\0" in value:
            raise UsageError(f"environment: {name} must be text of {LONGEST_VALUE} characters")
    return tuple(sorted(said.items()))


def _tiers(said: Any) -> tuple[str, ...]:
    if said is None:
        return TIER_ORDER
    if not isinstance(said, list) or not said or any(one not in TIER_ORDER for one in said):
        raise UsageError(f"tiers must be a list of some of {', '.join(TIER_ORDER)}")
    return tuple(tier for tier in TIER_ORDER if tier in said)
