"""What agents say to the gateway: hello, heartbeats, link frames."""

from __future__ import annotations

import signal
from typing import Any

from gateway.agents import AgentConnection, Agents
from gateway.auth import check_token
from gateway.errors import Fenced, KernelNotFound
from gateway.kernels import Kernels
from gateway.observer import KernelExit
from sessionkeeper.keeper.nodes import Node, Nodes


class NodeConnection(AgentConnection):
    """An agent's connection. Agents have a token of their own: it opens nothing but this."""

    def initialize(self, agents: Agents, token: str = "") -> None:
        super().initialize(agents)
        self._token = token

    def prepare(self) -> None:
        check_token(self.request, self._token)


class NodeAgents(Agents):
    """Turns what agents say into what :class:`Nodes` and the kernels' channels are told."""

    def __init__(self, nodes: Nodes, kernels: Kernels) -> None:
        self._nodes = nodes
        self._kernels = kernels
        self._by_connection: dict[AgentConnection, Node] = {}

    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        self._by_connection[connection] = self._nodes.joined(connection, hello)

    def event(self, connection: AgentConnection, event: dict[str, Any]) -> None:
        node = self._by_connection[connection]
        if node.gone.done():
            return
        if event.get("event") == "heartbeat":
            self._nodes.heard(node)
            connection.send_event({"event": "lease", "sent": event["sent"], "seconds": node.lease})
        elif event.get("event") == "kernel_gone" and event["kernel_id"] in self._kernels:
            channel = self._kernels.channel(event["kernel_id"])
            if channel.attached == event["epoch"]:
                why, passes = str(event.get("why") or ""), bool(event.get("passes"))
                channel.exited(KernelExit(None, signal.SIGKILL, why=why, passes=passes))

    def frame(self, connection: AgentConnection, kernel_id: str, frame: bytes) -> None:
        node = self._by_connection[connection]
        if node.gone.done():
            raise Fenced(f"{node.name} spoke for kernel {kernel_id}; its lease is over")
        if not node.hosting:
            return  # a session that is just being opened: what it says comes again
        if kernel_id not in self._kernels:
            raise KernelNotFound(kernel_id)
        self._kernels.channel(kernel_id).receive(frame)

    def left(self, connection: AgentConnection) -> None:
        node = self._by_connection.pop(connection)
        self._nodes.disconnected(node, connection)
