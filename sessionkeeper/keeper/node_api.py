"""``/api/sessionkeeper/nodes...`` and ``.../join-tokens...``: what an operator does with machines.

And ``/agents/join``, where a machine that has nothing but a join token gets in.
"""

from __future__ import annotations

from typing import Any

from tornado.web import RequestHandler

from sessionkeeper.errors import UnknownNode, UsageError
from sessionkeeper.keeper.api import Handler, OperatorHandler, Shared
from sessionkeeper.keeper.session_api import wish

LONGEST_WISH = 4096
"""Bytes of the body with which a machine joins."""


class JoinHandler(Handler):
    """``{"name", "token", "key", "signature", "tier"}``; 201 ``{"gateway", "name", "tier"}``."""

    def post(self) -> None:
        if len(self.request.body) > LONGEST_WISH:
            raise UsageError("that is more than a machine needs to say to join")
        member = self.shared.roster.join(wish(self.request.body), is_there=self._is_there)
        self.set_status(201)
        gateway = self.shared.roster.gateway
        self.finish({"gateway": gateway, "name": member.name, "tier": member.tier})

    def _is_there(self, name: str) -> bool:
        node = self.nodes.find(name)
        return node is not None and not node.gone.done()


class NodesHandler(OperatorHandler):
    """All that were seen since this process was started, and all that have joined."""

    def get(self) -> None:
        seen, roster = self.nodes.report(), self.shared.roster
        known = {one["name"]: one for one in seen}
        for member in roster.members():
            one = known.setdefault(member.name, {**_NEVER_SEEN, "name": member.name})
            one |= {"tier": member.tier, "joined": member.joined}
            if member.revoked:
                one["state"] = "revoked"
        self.finish({"nodes": [known[name] for name in sorted(known)]})


_NEVER_SEEN: dict[str, Any] = {
    "state": "away",
    "runtime": None,
    "cpu": None,
    "cpu_level": None,
    "cpu_baseline": None,
    "cores": None,
    "memory": None,
    "sessions": [],
    "last_seen": None,
    "notice": None,
}


class CordonHandler(OperatorHandler):
    """Nothing new is placed there; what is there stays. Also after a restart."""

    def post(self, name: str) -> None:
        node = self.nodes.find(name)
        if node is None and self.shared.roster.find(name) is None:
            self.nodes.get(name)  # raises, with the names there are
        self.shared.roster.cordon(name, True)
        if node is not None:
            self.nodes.cordon(node)
        self.finish({"name": name, "state": node.state if node else "away"})


class UncordonHandler(OperatorHandler):
    """The notice is withdrawn: sessions may be placed there again."""

    def post(self, name: str) -> None:
        node = self.nodes.find(name)
        if node is None and self.shared.roster.find(name) is None:
            self.nodes.get(name)
        self.shared.roster.cordon(name, False)
        if node is not None:
            self.nodes.uncordon(node)
        self.finish({"name": name, "state": node.state if node else "away"})


class RevokeHandler(OperatorHandler):
    """It is not let in any more. Its sessions go elsewhere at once, from their checkpoints."""

    def post(self, name: str) -> None:
        node = self.nodes.find(name)
        if node is None and self.shared.roster.find(name) is None:
            raise UnknownNode(f"there is no node {name!r}", hint="`sessionkeeper node list`")
        self.shared.roster.revoke(name)
        had = sorted(node.hosting) if node is not None else []
        if node is not None:
            self.nodes.left(node, "was revoked")
        self.finish({"name": name, "state": "revoked", "sessions": had})


class JoinTokensHandler(OperatorHandler):
    """Those that are good; POST ``{"tier", "uses", "seconds"}`` makes one, and tells it once."""

    def get(self) -> None:
        self.finish({"tokens": [one.report() for one in self.shared.roster.tickets()]})

    def post(self) -> None:
        said = wish(self.request.body)
        if unknown := set(said) - {"tier", "uses", "seconds"}:
            raise UsageError(f"a join token has no {min(unknown)!r}")
        uses, seconds = said.get("uses", 1), said.get("seconds", 3600.0)
        if not isinstance(uses, int) or not isinstance(seconds, int | float):
            raise UsageError("uses and seconds are numbers")
        tier = str(said.get("tier", "volunteer"))
        token, ticket = self.shared.roster.new_token(tier, uses, float(seconds))
        self.set_status(201)
        self.finish({"token": token, **ticket.report()})


class JoinTokenHandler(OperatorHandler):
    def delete(self, ticket: str) -> None:
        self.shared.roster.withdraw(ticket)
        self.set_status(204)


def node_routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    handlers: dict[str, type[RequestHandler]] = {
        "/agents/join": JoinHandler,
        "/api/sessionkeeper/nodes": NodesHandler,
        "/api/sessionkeeper/nodes/([^/]+)/cordon": CordonHandler,
        "/api/sessionkeeper/nodes/([^/]+)/uncordon": UncordonHandler,
        "/api/sessionkeeper/nodes/([^/]+)/revoke": RevokeHandler,
        "/api/sessionkeeper/join-tokens": JoinTokensHandler,
        "/api/sessionkeeper/join-tokens/([^/]+)": JoinTokenHandler,
    }
    return [(path, handler, {"shared": shared}) for path, handler in handlers.items()]
