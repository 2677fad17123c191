"""What agents say to the gateway: hello, heartbeats, link frames."""

from __future__ import annotations

import logging
import signal
from typing import Any

from gateway.agents import AgentConnection, Agents
from gateway.auth import check_token, token_of
from gateway.errors import Fenced, KernelNotFound, Unauthorized
from gateway.identity import SCHEME, Challenge
from gateway.observer import KernelExit
from sessionkeeper.compute.tokens import name_of
from sessionkeeper.keeper.hello import checked
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.notices import word_of
from sessionkeeper.keeper.roster import Roster
from sessionkeeper.keeper.sessions import Sessions

log = logging.getLogger(__name__)


_OF_KERNELS = {"kernel_gone", "out_of_memory"}


class NodeConnection(AgentConnection):
    """An agent's connection: it shows the agents' token, or that it has the key of a machine which
    has joined. Neither opens anything but this. One that was started for a session has a token that
    is good for its own name alone.
    """

    def initialize(self, agents: Agents, token: str = "", roster: Roster | None = None) -> None:
        super().initialize(agents)
        self._token = token
        self._roster = roster or Roster()
        self._challenge: Challenge | None = None
        self._alone: str | None = None

    def prepare(self) -> None:
        scheme, _, _ = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == SCHEME:
            self._challenge = Challenge(self._roster.gateway)
        else:
            self._alone = name_of(self._token, token_of(self.request) or "")
            if self._alone is None:
                check_token(self.request, self._token)

    def open(self, *args: str, **kwargs: str) -> None:
        super().open(*args, **kwargs)
        if self._challenge is not None:
            self.send_event(self._challenge.event())

    def admit(self, hello: dict[str, Any]) -> None:
        name = str(hello.get("node"))
        member = self._roster.find(name)
        hello["alone"] = self._alone is not None
        if self._alone not in (None, name):
            raise Unauthorized(
                f"Its token is that of {self._alone}, and it says that it is {name}."
            )
        if self._challenge is not None:
            # Once: whatever comes of it, this number is not asked again.
            challenge, self._challenge = self._challenge, None
            if member is not None:
                challenge.check(name, member.key, hello.get("proof"))
            hello["tier"] = self._roster.admitted(name).tier
            hello["joined"] = True
        elif member is not None:
            raise Unauthorized(
                f"A machine called {name} has joined with a key of its own.",
                hint="The agents' token does not do for it; start it with `node join`.",
            )
        else:
            hello["joined"] = False


class NodeAgents(Agents):
    """Turns what agents say into what :class:`Nodes` and the kernels' channels are told."""

    def __init__(self, nodes: Nodes, sessions: Sessions, roster: Roster | None = None) -> None:
        self._nodes = nodes
        self._roster = roster or Roster()
        self._sessions = sessions
        self._by_connection: dict[AgentConnection, Node] = {}

    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        joined = hello.get("joined") is True
        # User code may be beside the agent of a session's own node, whatever its tier is.
        trusted = not hello.get("alone") and (not joined or hello["tier"] == "on-demand")
        hello = checked(hello, trusted=trusted)
        name = hello["node"]
        if joined and hello.get("leaves") is True:
            self._roster.forget(name)
            node = self._nodes.find(name)
            if node is not None:
                self._nodes.left(node)
            return
        cordoned = self._roster.is_cordoned(name)
        self._by_connection[connection] = self._nodes.joined(connection, hello, cordoned=cordoned)

    def event(self, connection: AgentConnection, event: dict[str, Any]) -> None:
        node = self._by_connection.get(connection)
        if node is None or node.gone.done():
            return
        if event.get("event") == "heartbeat":
            self._nodes.heard(node)
            node.beat = event["sent"]
            connection.send_event({"event": "lease", "sent": event["sent"], "seconds": node.lease})
        elif event.get("event") == "notice":
            word = word_of(event)
            if word is None:
                log.warning("%s gave a notice without sense: %s", node.name, event)
            else:
                self._nodes.noticed(node, word)
        elif event.get("event") in _OF_KERNELS and event["session"] in node.hosting:
            kept, kernel_id = self._sessions.find(event["session"]), event["kernel_id"]
            if kept is not None and kernel_id in kept.kernels:
                channel = kept.kernels.channel(kernel_id)
                if channel.attached != event["epoch"]:
                    return
                if event["event"] == "out_of_memory":
                    kept.compute.out_of_memory.heard(kernel_id, event.get("limit"))
                    return
                why, passes = str(event.get("why") or ""), bool(event.get("passes"))
                channel.exited(KernelExit(None, signal.SIGKILL, why=why, passes=passes))

    def hears(self, connection: AgentConnection, address: str) -> bool:
        node, found = self._by_connection.get(connection), self._sessions.addresses.find(address)
        return node is not None and found is not None and found[0] in node.hosting

    def frame(self, connection: AgentConnection, address: str, frame: bytes | memoryview) -> None:
        node = self._by_connection.get(connection)
        if node is None:
            return
        if node.gone.done():
            raise Fenced(f"{node.name} spoke for kernel {address}; its lease is over")
        if node.connection is not connection:
            return  # late, over a connection that the agent has given up
        found = self._sessions.addresses.find(address)
        if found is None:
            raise KernelNotFound(address)
        session, kernel_id = found
        if session not in node.hosting:
            return  # a session that is just being opened (it comes again), or is not its any more
        kept = self._sessions.find(session)
        if kept is not None:
            kept.kernels.channel(kernel_id).receive(frame)

    def left(self, connection: AgentConnection) -> None:
        node = self._by_connection.pop(connection, None)
        if node is not None:
            self._nodes.disconnected(node, connection)
