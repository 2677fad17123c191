"""What agents say to the gateway: hello, heartbeats, link frames."""

from __future__ import annotations

import logging
import signal
from typing import Any

from gateway.agents import AgentConnection, Agents
from gateway.auth import check_token, token_of
from gateway.errors import Fenced, KernelNotFound, Unauthorized
from gateway.observer import KernelExit
from sessionkeeper.compute.tokens import name_of
from sessionkeeper.keeper.nodes import Node, Nodes
from sessionkeeper.keeper.notices import word_of
from sessionkeeper.keeper.sessions import Sessions

log = logging.getLogger(__name__)


class NodeConnection(AgentConnection):
    """An agent's connection. Agents have a token of their own: it opens nothing but this. One that
    was started for a session has one that is good for its own name alone.
    """

    def initialize(self, agents: Agents, token: str = "") -> None:
        super().initialize(agents)
        self._token = token

    def prepare(self) -> None:
        self._alone = name_of(self._token, token_of(self.request) or "")
        if self._alone is None:
            check_token(self.request, self._token)

    def check_name(self, name: str) -> None:
        """Raises ``Unauthorized`` if its token is not good for that name."""
        if self._alone not in (None, name):
            raise Unauthorized(
                f"Its token is that of {self._alone}, and it says that it is {name}."
            )


class NodeAgents(Agents):
    """Turns what agents say into what :class:`Nodes` and the kernels' channels are told."""

    def __init__(self, nodes: Nodes, sessions: Sessions) -> None:
        self._nodes = nodes
        self._sessions = sessions
        self._by_connection: dict[AgentConnection, Node] = {}

    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        if isinstance(connection, NodeConnection):
            connection.check_name(str(hello["node"]))
        self._by_connection[connection] = self._nodes.joined(connection, hello)

    def event(self, connection: AgentConnection, event: dict[str, Any]) -> None:
        node = self._by_connection[connection]
        if node.gone.done():
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
        elif event.get("event") == "kernel_gone" and event["session"] in node.hosting:
            kept, kernel_id = self._sessions.find(event["session"]), event["kernel_id"]
            if kept is not None and kernel_id in kept.kernels:
                channel = kept.kernels.channel(kernel_id)
                if channel.attached == event["epoch"]:
                    why, passes = str(event.get("why") or ""), bool(event.get("passes"))
                    channel.exited(KernelExit(None, signal.SIGKILL, why=why, passes=passes))

    def frame(self, connection: AgentConnection, address: str, frame: bytes | memoryview) -> None:
        node = self._by_connection[connection]
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
        node = self._by_connection.pop(connection)
        self._nodes.disconnected(node, connection)
