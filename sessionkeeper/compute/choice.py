"""Which compute a gateway starts, as its settings say, and what its sessions want of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from sessionkeeper.compute.backend import Compute, ComputeBackend
from sessionkeeper.compute.local import LocalBackend
from sessionkeeper.compute.plan import Rules, Wish, is_compute
from sessionkeeper.compute.provisioner import Provisioner
from sessionkeeper.errors import UsageError
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.reserved import Reserved
from sessionkeeper.keeper.sessions import Sessions
from sessionkeeper.keeper.whereto import Line
from sessionkeeper.settings import GatewaySettings

__all__ = ["backend_of", "provisioner_of", "wishes"]

WANTS = ("waiting", "failed")


def provisioner_of(settings: GatewaySettings, sessions: Sessions) -> Provisioner | None:
    """Return what starts and stops compute; None: nodes join by themselves. Raises
    :class:`UsageError`.
    """
    backend = backend_of(settings)
    if backend is None:
        return None
    around = sessions.around
    around.nodes.pool.reserved = Reserved(is_compute, around.line.changed)

    def tell(session: str, text: str | None) -> None:
        kept = sessions.find(session)
        if kept is not None:
            kept.keeper.status.warn("compute", text)

    made = Provisioner(
        backend,
        around.nodes,
        lambda: wishes(sessions, around.line, backend.tiers),
        tell,
        settings.agent_token,
        settings.compute_name,
        Rules(backend.tiers, grace=settings.compute_grace),
    )
    around.line.grew = made.wake
    return made


def backend_of(settings: GatewaySettings) -> ComputeBackend | None:
    """Return what the settings ask for. Raises :class:`UsageError`."""
    if settings.compute == "none":
        return None
    if settings.compute == "local":
        return LocalBackend(settings.state / "compute", lambda *of: _agent(settings, *of))
    if settings.compute_config is None:
        raise UsageError("--compute kubernetes needs --compute-config, which says what cluster")
    try:
        from sessionkeeper.kubernetes.backend import KubernetesBackend
        from sessionkeeper.kubernetes.cluster import read_cluster
    except ModuleNotFoundError:
        raise UsageError(
            "the Kubernetes client is not installed",
            hint="pip install 'sessionkeeper[kubernetes]'",
        ) from None
    return KubernetesBackend(read_cluster(settings.compute_config))


def _agent(settings: GatewaySettings, wanted: Compute, data: Path) -> list[str]:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return [
        *(sys.executable, "-m", "sessionkeeper", "agent"),
        *("--gateway-url", f"http://{host}:{settings.port}"),
        *("--node", wanted.name),
        *("--tier", wanted.tier),
        *("--data", str(data)),
        *("--runtime", "process"),
        *("--notices", "none"),
    ]


def wishes(sessions: Iterable[KeptSession], line: Line, tiers: Iterable[str]) -> Iterator[Wish]:
    """What the sessions want of compute in these tiers now: of a wish without tiers none is
    started.
    """
    has = set(tiers)
    for kept in sessions:
        keeper, registration = kept.keeper, kept.registration
        state, node = keeper.status.state, keeper.node
        if keeper.fence.lost or state in ("idle", "hibernated"):
            continue
        may = tuple(tier for tier in line.tiers(registration.name) if tier in has)
        needs = state in WANTS if node is None else node.draining
        yield Wish(replace(registration, tiers=may), needs, node.name if node is not None else None)
