"""What an operator says about the cluster: a TOML file, which the chart writes.

namespace = "binder"
instance = "binder"                 # tells this gateway's objects from another's
gateway_url = "http://sessionkeeper.binder.svc:8889"
profile = "criu"                    # or "unprivileged"
agent_image = "registry.example/sessionkeeper-agent:0.1.0"

[[pools]]
tier = "spot"
node_selector = { "cloud.google.com/gke-spot" = "true" }
tolerations = [{ key = "cloud.google.com/gke-spot", operator = "Exists" }]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from sessionkeeper.errors import UsageError
from sessionkeeper.placement import TIER_ORDER

__all__ = ["GIB", "Cluster", "Pool", "Resources", "read_cluster"]

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Pool:
    """Nodes of the cluster on which compute of a tier runs. ``patience``: seconds that a pod may
    wait for such a node before the session's next tier is tried.
    """

    tier: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priority_class: str = ""
    patience: float = 600.0


@dataclass(frozen=True)
class Resources:
    """Of one session's pod. Memory in bytes: ``guarantee`` and ``limit`` where the session does not
    say (Binder's: 450 MB and 2 GB), ``agent`` what the agent itself takes beside the kernels.
    ``cpu_request``, ``cpu_limit`` in cores; a limit of 0 is none. ``disk``: bytes of the node's
    disk that the session's files may take.
    """

    guarantee: int = 450 * MIB
    limit: int = 2 * GIB
    agent: int = 192 * MIB
    cpu_request: float = 0.1
    cpu_limit: float = 0.0
    disk: int = 10 * GIB


@dataclass(frozen=True)
class Cluster:
    """See above. ``image_volumes`` None: as the API server's version has them. ``privileged``: the
    agent's container of the profile `criu` gets everything, not the capabilities by name.
    """

    namespace: str
    instance: str
    gateway_url: str
    agent_image: str
    profile: str = "criu"
    default_image: str = ""
    """Of a session that names none, with `unprivileged`."""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    image_volumes: bool | None = None
    privileged: bool = False
    grace: float = 30.0
    """Seconds that a pod has between SIGTERM and SIGKILL: in these its session moves."""
    prepull: bool = True
    watch_nodes: bool = True
    """Whether the gateway may watch nodes for taints that say that they will go."""
    user: int = 1000
    group: int = 100
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    pools: tuple[Pool, ...] = (Pool("on-demand"),)

    def pool(self, tier: str) -> Pool:
        """Return where compute of that tier runs. Raises ``KeyError``."""
        return {pool.tier: pool for pool in self.pools}[tier]

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(pool.tier for pool in self.pools)


def read_cluster(file: Path) -> Cluster:
    """Read the file. Raises :class:`UsageError` that names what is wrong in it."""
    try:
        said = tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from None
    try:
        pools = tuple(
            _made(Pool, one, "pools") for one in said.pop("pools", [{"tier": "on-demand"}])
        )
        resources = _made(Resources, said.pop("resources", {}), "resources")
        cluster: Cluster = _made(Cluster, {**said, "pools": pools, "resources": resources}, "")
        _check(cluster)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: {error}") from None
    return cluster


def _made(kind: type[Any], said: Mapping[str, Any], table: str) -> Any:
    """Make one of ``kind`` of what a table says. Raises ``ValueError``."""
    known = {one.name: one for one in fields(kind)}
    where = f"[{table}] has" if table else "there is"
    if unknown := set(said) - set(known):
        raise ValueError(f"{where} no {min(unknown)!r}; known are {', '.join(known)}")
    for one in known.values():
        if one.default is MISSING and one.default_factory is MISSING and one.name not in said:
            raise ValueError(f"{one.name!r} is missing")
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
    for name, value in given.items():
        wanted = known[name].type
        fits = _FITS.get(str(wanted).partition("[")[0])
        if fits is not None and type(value) not in fits:
            raise ValueError(f"{name} is {value!r}, and should be {wanted}")
    return kind(**given)


_ANYWHERE = {"tier": "on-demand"}
_FITS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "bool | None": (bool,),
    "int": (int,),
    "float": (int, float),
    "tuple": (tuple,),
    "Mapping": (dict,),
}
"""What a field of that annotation may be in TOML."""


def _check(cluster: Cluster) -> None:
    if cluster.profile not in ("criu", "unprivileged"):
        raise ValueError(f"profile is {cluster.profile!r}; known are criu, unprivileged")
    if cluster.profile == "unprivileged" and not cluster.default_image:
        raise ValueError("default_image is wanted: with `unprivileged`, kernels run in an image")
    if cluster.user <= 0:
        raise ValueError("user is 0 or less: user code is never root")
    wrong = [pool.tier for pool in cluster.pools if pool.tier not in TIER_ORDER]
    if wrong or not cluster.pools:
        raise ValueError(f"a pool's tier is one of {', '.join(TIER_ORDER)}")
    if len(set(cluster.tiers)) < len(cluster.tiers):
        raise ValueError("there are two pools of one tier")
