"""What each program of sessionkeeper can be told, and the one place where it is read.

A setting comes from, later ones winning: the default, the file given with `--config` (TOML, one
table per program: `[up]`, `[gateway]`, `[agent]`, `[ui]`), the environment
(`SESSIONKEEPER_NODES=3`), the flag (`--nodes 3`). A secret is never a flag: it is the content of a
file (`--token-file`, `SESSIONKEEPER_TOKEN_FILE`) or of the environment (`SESSIONKEEPER_TOKEN`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from sessionkeeper.errors import UsageError
from sessionkeeper.expiry import NEVER
from sessionkeeper.leases import AWAY, NEAR
from sessionkeeper.notices.policy import Policy
from sessionkeeper.quotas import Quotas
from sessionkeeper.rebalance import REBALANCE_AFTER
from sessionkeeper.retention import DEFAULT
from sessionkeeper.values import (
    Binder,
    Boolean,
    Bytes,
    ComputeKind,
    CpuLevel,
    Descriptor,
    FilePath,
    Keep,
    LeaseTimes,
    LogFormat,
    LogLevel,
    NodeCount,
    NodeName,
    NoticeNames,
    OnDemand,
    OnlyWhen,
    OnRollback,
    OptionalCount,
    OptionalDirectory,
    OptionalFile,
    OptionalPath,
    OptionalPrice,
    OptionalSeconds,
    OptionalText,
    OptionalUrl,
    OrNever,
    Parser,
    Port,
    Prefix,
    QuotaWords,
    Runtime,
    RuntimeChoice,
    Seconds,
    Secret,
    SessionId,
    SessionLimits,
    Size,
    Text,
    Tier,
)

__all__ = [
    "AgentSettings",
    "GatewaySettings",
    "UiSettings",
    "UpSettings",
    "default_state",
    "load",
]

ENVIRONMENT_PREFIX = "SESSIONKEEPER_"

NO_QUOTAS = Quotas()

LAZY_ABOVE = 128 << 20
"""Bytes. Measured on two cores with a local store: a kernel of 100 MB answers after as long (0.25
s) whether its memory is there or on its way; one of 200 MB twice as early if on its way."""


IMAGES_UNUSED = 30 * 86400.0


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What every program is told about its log."""

    log_format: LogFormat = "text"
    """`json`: lines of one field set."""
    log_level: LogLevel = "info"
    """`debug`: each message's way as well, under its id."""


@dataclass(frozen=True, kw_only=True)
class UpSettings(LogSettings):
    """`sessionkeeper up`: everything on this machine."""

    state: FilePath
    nodes: NodeCount = 2
    """Nodes to begin with."""
    store: Text = ""
    """Path or URL of the blob store; when not given, `store` in the state directory."""
    session: SessionId = "default"
    master_key: OptionalFile = None
    """Key file of the store, when that is not the state directory's own."""
    host: Text = "127.0.0.1"
    port: Port = 8888
    """Where the browser goes. The gateway takes a free port above it."""
    runtime: RuntimeChoice = "auto"
    lease_seconds: LeaseTimes = NEAR
    """A node that was not heard for so long is lost; by its tier."""
    on_rollback: OnRollback = "replay"
    keep: Keep = DEFAULT
    """Which checkpoints are kept."""
    tier: Tier = "on-demand"
    workspace: OptionalDirectory = None
    """A directory whose content a new session's workspace begins with."""
    memory: Size = None
    """Bytes of memory that one kernel may use; None: no limit."""
    criu: OptionalPath = None
    cpu_baseline: CpuLevel = None
    """What the nodes' kernels use at most; None (`native`): all that their CPU has."""
    hibernate_after: OptionalSeconds = None
    """A session in which nothing has run for so long is saved and its compute released; None: it
    keeps it."""
    session_limits: SessionLimits = NEVER
    """How old a session may get and how much of the store it may take before it is deleted, after
    a warning: see `sessionkeeper.expiry`."""
    guarantee: Bytes = 0
    """Memory (bytes) that a node must have left for a session that says nothing else."""
    limit: Size = None
    """Memory that such a session may use at most; None: what the node allows."""
    quotas: QuotaWords = NO_QUOTAS
    """How many sessions of one owner, or in one image, may have a node."""
    on_demand: OnDemand = 0.0
    """Seconds that a session waits for other tiers before it gets on-demand capacity; None: it
    never does."""
    rebalance_after: OrNever = REBALANCE_AFTER
    """Seconds that a session is on a node before it moves to a cheaper one; None: it stays."""
    price: OptionalPrice = None
    """Of each of its nodes, per hour, in any one currency."""
    ui: Boolean = True
    notices: NoticeNames = ("none",)
    """For its nodes. They are all on this machine, and go with it."""
    images_unused: OrNever = IMAGES_UNUSED
    images_size: Size = None
    registry: Prefix = ""
    binder: Binder = "token"
    """Who may have repositories built and launched at the gateway: see `GatewaySettings`."""


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(LogSettings):
    """`sessionkeeper gateway`: kernel gateway API, agents, keeper."""

    state: FilePath
    """Directory of its own, for journals."""
    host: Text = "127.0.0.1"
    port: Port = 8889
    agent_host: OptionalText = None
    """A second address to listen on, same port: that of the nodes' bridge."""
    token: Secret = field(repr=False)
    """The operator's: opens all sessions, and the nodes."""
    agent_token: Secret = field(repr=False)
    session_token: Secret = field(repr=False, default="")
    """Opens the session that is served, and nothing else."""
    store: Text
    master_key: FilePath
    lease_seconds: LeaseTimes = AWAY
    on_rollback: OnRollback = "replay"
    keep: Keep = DEFAULT
    hibernate_after: OptionalSeconds = None
    session_limits: SessionLimits = NEVER
    guarantee: Bytes = 0
    limit: Size = None
    quotas: QuotaWords = NO_QUOTAS
    on_demand: OnDemand = 0.0
    rebalance_after: OrNever = REBALANCE_AFTER
    session: SessionId = "default"
    seed: OptionalDirectory = None
    images: OptionalPath = None
    """Where images are kept; None: in the state directory."""
    images_unused: OrNever = IMAGES_UNUSED
    """Seconds after which an image that no session has is cleared away; None: it stays."""
    images_size: Size = None
    """Bytes of all images above which those go that were used longest ago; None: no limit."""
    registry: Prefix = ""
    """Where built images are pushed to, before their names: `registry.example.org/binder/`. When
    not given they are kept here."""
    binder: Binder = "token"
    """Who may have repositories built and launched: who has the operator's token, `open`: anybody
    who reaches it, `off`: nobody."""
    up: OptionalPath = None
    """State directory of the `sessionkeeper up` that starts UI servers; None: nobody does."""
    compute: ComputeKind = "none"
    """Where compute for sessions is started; `none`: nodes join by themselves."""
    compute_config: OptionalFile = None
    """Of `kubernetes`: see `sessionkeeper.kubernetes.cluster`."""
    compute_name: SessionId = "sessionkeeper"
    """Of this gateway, where others start compute in the same place."""
    compute_grace: Seconds = 30.0
    """Compute that no session wants is kept for so long."""
    ready_fd: Descriptor = None
    """Where to say that it serves: see `sessionkeeper.up.ready.announce`."""


@dataclass(frozen=True, kw_only=True)
class AgentSettings(LogSettings):
    """`sessionkeeper agent`: offers one node's compute to a gateway."""

    gateway_url: Text
    """`http://host:port` or `https://...` of the gateway."""
    token: Secret = field(repr=False, default="")
    """The agents'. A machine that has joined has an identity of its own instead."""
    identity: OptionalFile = None
    """What `node join` has left: see `sessionkeeper.agent.membership`."""
    node: NodeName
    tier: Tier = "on-demand"
    price: OptionalPrice = None
    """Of this node per hour, in any one currency; None: nobody knows."""
    list_price: OptionalPrice = None
    """Of a machine like this one on demand; None: what on-demand cores cost, or what is paid."""
    data: FilePath
    """Directory of its own; gone when the node goes."""
    inside: OptionalText = None
    """The container image that this process itself is in: plain processes can run in that one."""
    mounted_image: OptionalText = None
    """A container image that is mounted at `mounted_at`, and need not be fetched."""
    mounted_at: OptionalPath = None
    runtime: Runtime = "process"
    criu: OptionalPath = None
    memory_bytes: Size = None
    """Memory that one kernel may use; None: no limit."""
    offered_cores: OptionalCount = None
    offered_memory: Size = None
    """What all sessions together may use here; None: all that the machine has."""
    lazy_above: Bytes = LAZY_ABOVE
    """A kernel with more memory than so many bytes answers before it has arrived, where that
    works."""
    cgroup: OptionalText = None
    """Parent of the kernels' cgroups, an absolute path below the root of each hierarchy."""
    cpu_baseline: CpuLevel = None
    """What kernels use at most, on all nodes of the pool; None (`native`): all that the CPU has."""
    cpu_most: CpuLevel = None
    """Treat this node as if its CPU had that level and nothing more; None (`native`): as it is."""
    notices: NoticeNames = ("auto",)
    """Who gives notice that this node will go: see `sessionkeeper.notices.choice`."""
    metadata_url: OptionalUrl = None
    """The cloud's metadata service, where that is not at its usual address."""
    grace: Seconds = 30.0
    """After SIGTERM, if `signal` is one of `notices`."""
    only_when: OnlyWhen = Policy()  # noqa: RUF009
    """When sessions may be here, by its owner's wish: see `sessionkeeper.notices.policy`."""
    ready_fd: Descriptor = None
    """Where to say that the gateway accepted it: see `sessionkeeper.up.ready.announce`."""


@dataclass(frozen=True, kw_only=True)
class UiSettings(LogSettings):
    """`sessionkeeper ui`: JupyterLab."""

    state: FilePath
    """Directory of its own, for notebook sessions and lab settings."""
    host: Text = "127.0.0.1"
    port: Port = 8888
    token: Secret = field(repr=False)
    """What browsers show."""
    gateway_url: Text
    gateway_token: Secret = field(repr=False)
    base_url: Text = "/"
    allow_origin: OptionalUrl = None
    """Pages from there may talk to it, with its token; None: only its own."""
    ready_fd: Descriptor = None


Settings = TypeVar("Settings", UpSettings, GatewaySettings, AgentSettings, UiSettings)
_TABLES: dict[type, str] = {
    UpSettings: "up",
    GatewaySettings: "gateway",
    AgentSettings: "agent",
    UiSettings: "ui",
}


def default_state(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Where state lives when nobody says: system-wide for root, else as the XDG base directory
    specification has it."""
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/sessionkeeper")
    home = environ.get("XDG_STATE_HOME")
    base = Path(home) if home else Path(environ.get("HOME") or "~").expanduser() / ".local/state"
    return base / "sessionkeeper"


def load(
    kind: type[Settings],
    flags: Mapping[str, object],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Settings of one program from all sources. `flags` maps field names (`token_file` for the
    secret `token`) to what was typed; None is "not given". UsageError names the source."""
    parsers = _parsers(kind)
    table = _read_table(config, _TABLES[kind], parsers) if config else {}
    values: dict[str, Any] = {}
    for name, parser in parsers.items():
        found = _find(name, parser, flags, environ, table, config)
        if found is not None:
            values[name] = _parse(parser, *found)
    if "state" in parsers and "state" not in values:
        own = "" if kind is UpSettings else _TABLES[kind]
        values["state"] = default_state(environ) / own
    for one in fields(kind):
        if one.name not in values and one.default is MISSING:
            raise UsageError(f"{_flag(one.name, parsers[one.name])} is needed and was not given")
    if kind is UpSettings and not values.get("store"):
        values["store"] = str(values["state"] / "store")
    return kind(**values)


def _parsers(kind: type) -> dict[str, Parser]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


def _find(
    name: str,
    parser: Parser,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    table: Mapping[str, object],
    config: Path | None,
) -> tuple[str, object] | None:
    """The winning source: how to call it, and the value as it was written."""
    read = _content if parser.secret else lambda _source, value: value
    key = _key(name, parser)
    variable = ENVIRONMENT_PREFIX + key.upper()
    if flags.get(key) is not None:
        flag = _flag(name, parser)
        return flag, read(flag, flags[key])
    if environ.get(variable):
        return variable, read(variable, environ[variable])
    if parser.secret and environ.get(ENVIRONMENT_PREFIX + name.upper()):
        variable = ENVIRONMENT_PREFIX + name.upper()
        return variable, environ[variable]
    if key in table:
        source = f"{key} in {config}"
        return source, read(source, table[key])
    return None


def _key(name: str, parser: Parser) -> str:
    return f"{name}_file" if parser.secret else name


def _flag(name: str, parser: Parser) -> str:
    return "--" + _key(name, parser).replace("_", "-")


def _content(source: str, path: object) -> str:
    try:
        return Path(str(path)).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: {path} cannot be read: {error}") from None


def _parse(parser: Parser, source: str, value: object) -> object:
    try:
        return parser.parse(value)
    except ValueError as error:
        shown = "the value" if parser.secret else repr(str(value))
        raise UsageError(f"{source}: {shown} {error}") from None


def _read_table(config: Path, name: str, parsers: Mapping[str, Parser]) -> dict[str, object]:
    try:
        content = tomllib.loads(config.read_text())
    except OSError as error:
        raise UsageError(f"--config: {config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {config} is not TOML: {error}") from None
    unknown = set(content) - set(_TABLES.values())
    if unknown:
        tables = ", ".join(f"[{one}]" for one in _TABLES.values())
        raise UsageError(f"{config}: {min(unknown)!r} is none of {tables}")
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{config}: {name} must be a table, [{name}]")
    known = [_key(one, parser) for one, parser in parsers.items() if one != "ready_fd"]
    unknown = set(table) - set(known)
    if unknown:
        text = f"{config}: [{name}] has no setting {min(unknown)!r}; it has {', '.join(known)}"
        raise UsageError(text)
    return table
