"""How the supervisor calls the parts: argument vectors, as data. No secret is in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sessionkeeper import leases
from sessionkeeper.expiry import spelled_limits
from sessionkeeper.nodes.local import cgroup_of
from sessionkeeper.quotas import spelled_quotas
from sessionkeeper.retention import spelled
from sessionkeeper.settings import UpSettings
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.values import spelled_seconds

__all__ = ["Commands", "Places"]

_SELF = (sys.executable, "-m", "sessionkeeper")
LOOPBACK = "127.0.0.1"
_NOTHING: Mapping[str, str | None] = {}


@dataclass(frozen=True)
class Places:
    """Where the gateway listens: `port` on loopback, and on `agent_host` where nodes have a
    network of their own."""

    port: int
    agent_host: str | None = None

    @property
    def url(self) -> str:
        """For this machine."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def agent_url(self) -> str:
        """For agents on the nodes."""
        return f"http://{self.agent_host or LOOPBACK}:{self.port}"


@dataclass(frozen=True)
class Commands:
    """The programs; the flags that each gets are added by the methods. `{ready_fd}` stands for
    the descriptor on which a part says that it is ready."""

    gateway_program: Sequence[str] = field(default=(*_SELF, "gateway"))
    ui_program: Sequence[str] = field(default=(*_SELF, "ui"))
    agent_program: Sequence[str] = field(default=(*_SELF, "agent"))

    def gateway(self, settings: UpSettings, state: StateDirectory, places: Places) -> list[str]:
        """The gateway's argv."""
        return [
            *self.gateway_program,
            *("--state", str(state.gateway)),
            *("--host", LOOPBACK),
            *("--port", str(places.port)),
            *_given("--agent-host", places.agent_host),
            *("--token-file", str(state.token_file("gateway"))),
            *("--agent-token-file", str(state.token_file("agent"))),
            *("--session-token-file", str(state.session_token_file(settings.session))),
            *("--store", settings.store),
            *("--master-key", str(settings.master_key or state.master_key)),
            *("--session", settings.session),
            *("--lease-seconds", leases.spelled(settings.lease_seconds)),
            *("--on-rollback", settings.on_rollback),
            *("--keep", spelled(settings.keep)),
            *_given("--hibernate-after", settings.hibernate_after),
            *("--session-limits", spelled_limits(settings.session_limits)),
            *_given("--guarantee", settings.guarantee or None),
            *_given("--limit", settings.limit),
            *_given("--quotas", spelled_quotas(settings.quotas) or None),
            *("--on-demand", spelled_seconds(settings.on_demand)),
            *("--rebalance-after", spelled_seconds(settings.rebalance_after)),
            *_given("--seed", settings.workspace),
            *("--images-unused", spelled_seconds(settings.images_unused)),
            *_given("--images-size", settings.images_size),
            *_given("--registry", settings.registry or None),
            *("--binder", settings.binder),
            *("--up", str(state.path)),
            *("--ready-fd", "{ready_fd}"),
        ]

    def ui(
        self,
        settings: UpSettings,
        state: StateDirectory,
        places: Places,
        session: str | None = None,
        port: int | None = None,
        origin: str | None = None,
    ) -> list[str]:
        """The argv of the UI server: of the session that is run, or of another on its own port. The
        latter's browsers show the session's token, so that nobody comes from one to the other."""
        token = state.session_token_file(session or settings.session)
        own = state.ui / "of" / session if session else state.ui
        return [
            *self.ui_program,
            *("--state", str(own)),
            *("--host", settings.host),
            *("--port", str(port or settings.port)),
            *("--token-file", str(token if session else state.token_file("ui"))),
            *("--gateway-url", places.url),
            *("--gateway-token-file", str(token)),
            *_given("--allow-origin", origin),
            *("--ready-fd", "{ready_fd}"),
        ]

    def agent(
        self,
        settings: UpSettings,
        runtime: str,
        instance: str,
        name: str,
        data: Path,
        url: str,
        own: Mapping[str, str | None] = _NOTHING,
    ) -> list[str]:
        """The argv of a node's agent; `data` is the node's directory, `url` the gateway's, `own`
        what was asked for this node alone: `cpu_most`, `tier`, `price`."""
        return [
            *self.agent_program,
            *("--gateway-url", url),
            *("--token-file", str(data / "token")),
            *("--node", name),
            *("--tier", own.get("tier") or settings.tier),
            *_given("--price", own.get("price") or settings.price),
            *("--data", str(data / "agent")),
            *("--runtime", runtime),
            *_given("--criu", settings.criu),
            *_given("--memory-bytes", settings.memory),
            *_given("--cpu-baseline", settings.cpu_baseline),
            *_given("--cpu-most", own.get("cpu_most")),
            *("--notices", ",".join(settings.notices)),
            *_given("--cgroup", cgroup_of(instance, name) if runtime == "container" else None),
            *("--ready-fd", "{ready_fd}"),
        ]


def _given(flag: str, value: object) -> list[str]:
    return [] if value is None else [flag, str(value)]
