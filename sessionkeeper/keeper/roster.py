"""Which machines have joined this gateway, and the tokens that let more of them in.

A join token is shown once; kept is its hash. It is good for so many machines of one tier, for a
while. A machine that joined has a name, and a key that it alone has: the gateway knows the public
half. What is here is on disk before anybody is told.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway import durable
from gateway.errors import NodeRevoked, Unauthorized
from gateway.identity import check_joining
from sessionkeeper.errors import NotLetIn, UnknownNode, UsageError
from sessionkeeper.placement import TIER_ORDER
from sessionkeeper.registration import hashed

log = logging.getLogger(__name__)

LONGEST_LIFE = 30 * 86400.0
"""Seconds that a join token can be good for."""

MOST_USES = 1000
TRUST = ("volunteer", "spot", "on-demand")
"""Least first. A token for one tier lets in machines that are to be trusted less, too."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_OURS = re.compile(r"node-\d+")


class JoinRefused(NotLetIn):
    """The token is none, was used, or its time is over: who asks is not told which."""

    code = "join_refused"
    hint = "Ask for a new one: `sessionkeeper node token create`, on the gateway's machine."


class NameRefused(NotLetIn):
    """Another machine has the name, or it can be no machine's."""

    code = "name_refused"
    hint = "Choose another one with --name."


@dataclass(frozen=True)
class Ticket:
    """A join token. ``uses`` are left until ``expires`` (Unix seconds); ``used`` has the public
    keys of those that came with it, who may ask again if the answer was lost.
    """

    id: str
    hash: str = field(repr=False)
    tier: str
    uses: int
    expires: float
    used: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """Return what may be told of it."""
        left = {"id": self.id, "tier": self.tier, "uses": self.uses, "expires": self.expires}
        return {**left, "used": len(self.used)}


@dataclass(frozen=True)
class Member:
    """A machine that has joined. ``key`` is the public one."""

    name: str
    key: str
    tier: str
    joined: float
    revoked: bool = False


class Roster:
    """``file`` keeps it; None: nothing does. ``now`` tells Unix seconds."""

    def __init__(self, file: Path | None = None, now: Callable[[], float] = time.time) -> None:
        """Raises ``ValueError`` for a file that is damaged: going on without it would let nobody
        in, or those that were revoked.
        """
        self._file = file
        self._now = now
        self.gateway = secrets.token_hex(16)
        """What the gateway calls itself; nodes sign it."""
        self._tickets: dict[str, Ticket] = {}
        self._members: dict[str, Member] = {}
        self._cordoned: set[str] = set()
        if file is not None and file.exists():
            self._read(file)
        else:
            self._save()

    # -- tokens --------------------------------------------------------------------------------

    def new_token(
        self, tier: str = "volunteer", uses: int = 1, seconds: float = 3600.0
    ) -> tuple[str, Ticket]:
        """Return a new token, which is told once, and what is kept of it. Raises ``UsageError``."""
        if tier not in TIER_ORDER:
            raise UsageError(f"{tier!r} is no tier; there are {', '.join(TIER_ORDER)}")
        if not 1 <= uses <= MOST_USES:
            raise UsageError(f"a token is for 1 to {MOST_USES} machines")
        if not 0 < seconds <= LONGEST_LIFE:
            raise UsageError(f"a token is good for {LONGEST_LIFE / 86400:.0f} days at most")
        self._forget_old()
        token = secrets.token_hex(24)  # typed as an argument: it must not begin with a dash
        ticket = Ticket(secrets.token_hex(4), hashed(token), tier, uses, self._now() + seconds)
        self._tickets[ticket.id] = ticket
        self._save()
        return token, ticket

    def tickets(self) -> list[Ticket]:
        """Return those that are still good."""
        return [one for one in self._tickets.values() if self._is_good(one)]

    def withdraw(self, ticket: str) -> None:
        """The token of that id lets nobody in any more. Raises ``UsageError``."""
        if self._tickets.pop(ticket, None) is None:
            raise UsageError(f"there is no join token {ticket!r}", hint="`node token list`")
        self._save()

    # -- joining -------------------------------------------------------------------------------

    def join(self, wish: dict[str, Any], *, is_there: Callable[[str], bool]) -> Member:
        """Let a machine in that shows a token and, by its ``signature``, that it has the key
        ``key``. ``is_there``: whether a machine of a name is connected.

        Asking again with the same token and key changes nothing. Raises ``JoinRefused``,
        ``NameRefused``, ``Unauthorized``, and ``UsageError`` for a wish that makes no sense.
        """
        said = {what: wish.get(what) for what in ("name", "token", "key", "signature")}
        if not all(isinstance(one, str) and 0 < len(one) <= 200 for one in said.values()):
            raise UsageError("a machine that joins gives its name, token, key and signature")
        name, token, key = str(said["name"]), str(said["token"]), str(said["key"])
        ticket = self._of(token)
        if ticket is None or (ticket.uses < 1 and key not in ticket.used):
            raise JoinRefused("This join token is none that is good now.")
        check_joining(name, token, key, said["signature"])
        known = self._members.get(name)
        if known is not None and known.key == key and not known.revoked:
            return known
        if key in ticket.used:
            raise JoinRefused("This join token is none that is good now.")
        if not _NAME.fullmatch(name) or _OURS.fullmatch(name):
            raise NameRefused(
                f"{name!r} is no name for a machine that joins: lower-case letters, digits and"
                " dashes, at most 40, and not node-1, node-2…"
            )
        if (known is not None and not known.revoked) or (known is None and is_there(name)):
            raise NameRefused(f"Another machine is called {name} here.")
        member = Member(name, key, _tier(wish.get("tier"), ticket), self._now())
        used = replace(ticket, uses=ticket.uses - 1, used=(*ticket.used, key))
        self._tickets[ticket.id], self._members[name] = used, member
        self._cordoned.discard(name)
        self._save()
        log.info("node %s has joined (%s), with the token %s", name, member.tier, ticket.id)
        return member

    # -- machines ------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Return all, revoked ones too."""
        return list(self._members.values())

    def find(self, name: str) -> Member | None:
        """Return the machine of that name that has joined; None: there is none."""
        return self._members.get(name)

    def admitted(self, name: str) -> Member:
        """Return the machine if it may come in. Raises ``Unauthorized``, ``NodeRevoked``."""
        member = self._members.get(name)
        if member is None:
            raise Unauthorized(
                f"No machine called {name} has joined this gateway.",
                hint="Join it: `sessionkeeper node join URL --token TOKEN`.",
            )
        if member.revoked:
            raise NodeRevoked(f"The gateway's operator has revoked {name}.")
        return member

    def revoke(self, name: str) -> None:
        """It is not let in any more. Raises ``UnknownNode``."""
        member = self._members.get(name)
        if member is None:
            raise UnknownNode(
                f"no machine called {name!r} has joined",
                hint="what `sessionkeeper up` started ends with `node kill`",
            )
        self._members[name] = replace(member, revoked=True)
        self._save()
        log.warning("node %s is revoked", name)

    def forget(self, name: str) -> None:
        """It has left for good; its name is free."""
        if self._members.pop(name, None) is not None:
            self._cordoned.discard(name)
            self._save()
            log.info("node %s has left", name)

    def cordon(self, name: str, cordoned: bool) -> None:
        """Whether nothing new is placed there. Also of machines that did not join."""
        before = set(self._cordoned)
        (self._cordoned.add if cordoned else self._cordoned.discard)(name)
        if self._cordoned != before:
            self._save()

    def is_cordoned(self, name: str) -> bool:
        """Whether that was said."""
        return name in self._cordoned

    # -- inside --------------------------------------------------------------------------------

    def _of(self, token: str) -> Ticket | None:
        """All are compared: how long it takes says nothing about them."""
        given, found = hashed(token), None
        for ticket in self._tickets.values():
            if hmac.compare_digest(ticket.hash, given) and self._now() < ticket.expires:
                found = ticket
        return found

    def _is_good(self, ticket: Ticket) -> bool:
        return ticket.uses > 0 and self._now() < ticket.expires

    def _forget_old(self) -> None:
        now = self._now()
        self._tickets = {i: one for i, one in self._tickets.items() if now < one.expires}

    def _read(self, file: Path) -> None:
        try:
            said = json.loads(file.read_text())
            self.gateway = str(said["gateway"])
            tickets = [Ticket(**{**one, "used": tuple(one["used"])}) for one in said["tickets"]]
            self._tickets = {one.id: one for one in tickets}
            self._members = {one["name"]: Member(**one) for one in said["members"]}
            self._cordoned = set(said["cordoned"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file} is damaged: {error}") from None

    def _save(self) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {
            "gateway": self.gateway,
            "tickets": [asdict(one) for one in self._tickets.values()],
            "members": [asdict(one) for one in self._members.values()],
            "cordoned": sorted(self._cordoned),
        }
        durable.replace(self._file, json.dumps(kept))


def _tier(asked: object, ticket: Ticket) -> str:
    if asked is None:
        return ticket.tier
    if asked not in TRUST:
        raise UsageError(f"{asked!r} is no tier; there are {', '.join(TIER_ORDER)}")
    tier = str(asked)
    if TRUST.index(tier) > TRUST.index(ticket.tier):
        raise UsageError(
            f"the token is for machines of the tier {ticket.tier}, not {tier}",
            hint="ask for one that is, or leave --tier out",
        )
    return tier
