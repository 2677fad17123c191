"""What the value of a setting may be: each kind of value, and how it is read from text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from checkpoint.retention import Retention
from sessionkeeper.cpu_levels import LEVELS
from sessionkeeper.duration import parse_duration as parse_duration
from sessionkeeper.duration import positive_duration
from sessionkeeper.expiry import Limits, parse_limits
from sessionkeeper.images.errors import BadReference
from sessionkeeper.images.reference import parse
from sessionkeeper.leases import Leases, parse_leases
from sessionkeeper.notices.names import parse_names
from sessionkeeper.notices.policy import Policy, parse_policy
from sessionkeeper.placement import TIER_ORDER
from sessionkeeper.quotas import Quotas, parse_quotas
from sessionkeeper.retention import parse_retention
from sessionkeeper.sizes import parse_size as parse_size

_SESSION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


LEAST_MEMORY = 128 << 20
"""Bytes: an idle Python kernel with its shim takes about half of it."""


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return str(value)

    return parse


def _cpu_level(value: object) -> str | None:
    return None if value == "native" else _one_of("native", *LEVELS)(value)


def parse_price(value: object) -> float:
    """A price per hour, in any one currency, such as `0.04`; ValueError for what is none."""
    try:
        price = float(str(value))
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e6:
        raise ValueError("is no price per hour such as 0.04")
    return price


def _on_demand(value: object) -> float | None:
    words = {"always": 0.0, "never": None}
    return words[str(value)] if str(value) in words else positive_duration(value)


def _or_never(value: object) -> float | None:
    return None if value == "never" else positive_duration(value)


def spelled_seconds(seconds: float | None) -> str:
    """What is read as these seconds again, where None is `never`."""
    return "never" if seconds is None else "always" if seconds == 0 else f"{seconds}s"


def _prefix(value: object) -> str:
    try:
        host = parse(f"{value}image").host
    except BadReference:
        host = ""
    if not host:
        raise ValueError("is no beginning of images' names such as registry.example.org/binder/")
    return str(value)


def _memory(value: object) -> int:
    size = parse_size(value)
    if size < LEAST_MEMORY:
        raise ValueError("is too little for a kernel; it takes 128M at least")
    return size


def _path(value: object) -> Path:
    if not str(value):
        raise ValueError("is empty; a path is wanted")
    return Path(os.path.abspath(Path(str(value)).expanduser()))


def _directory(value: object) -> Path:
    path = _path(value)
    if not path.is_dir():
        raise ValueError("is not a directory")
    return path


def _file(value: object) -> Path:
    path = _path(value)
    if not path.is_file():
        raise ValueError("is not a file")
    return path


def _session_id(value: object) -> str:
    if not _SESSION_ID.fullmatch(str(value)):
        raise ValueError("is no session: letters, digits, '.', '_' and '-', at most 128")
    return str(value)


def _text(value: object) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError("is empty")
    return text


def _url(value: object) -> str:
    text = _text(value)
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:
        pass
    raise ValueError("is no URL as http://169.254.169.254")


def _boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError("is neither true nor false") from None


def _node_name(value: object) -> str:
    if not _NODE_NAME.fullmatch(str(value)):
        raise ValueError("is no node name: lower-case letters, digits and dashes, at most 40")
    return str(value)


@dataclass(frozen=True)
class Parser:
    """How the value of a setting is read from text; ValueError continues "<value> ..."."""

    parse: Callable[[object], object]
    secret: bool = False


NodeCount = Annotated[int, Parser(_whole(1, 60))]
OptionalCount = Annotated[int | None, Parser(_whole(1, 4096))]
Port = Annotated[int, Parser(_whole(1, 65535))]
Descriptor = Annotated[int | None, Parser(_whole(0, 1 << 20))]
Text = Annotated[str, Parser(_text)]
OptionalUrl = Annotated[str | None, Parser(_url)]
OptionalText = Annotated[str | None, Parser(_text)]
Secret = Annotated[str, Parser(_text, secret=True)]
FilePath = Annotated[Path, Parser(_path)]
OptionalPath = Annotated[Path | None, Parser(_path)]
OptionalFile = Annotated[Path | None, Parser(_file)]
OptionalDirectory = Annotated[Path | None, Parser(_directory)]
SessionId = Annotated[str, Parser(_session_id)]
Seconds = Annotated[float, Parser(positive_duration)]
LeaseTimes = Annotated[Leases, Parser(parse_leases)]
OptionalSeconds = Annotated[float | None, Parser(positive_duration)]
Size = Annotated[int | None, Parser(_memory)]
Bytes = Annotated[int, Parser(parse_size)]
Prefix = Annotated[str, Parser(_prefix)]
Boolean = Annotated[bool, Parser(_boolean)]
OptionalPrice = Annotated[float | None, Parser(parse_price)]
OnDemand = Annotated[float | None, Parser(_on_demand)]
OrNever = Annotated[float | None, Parser(_or_never)]
QuotaWords = Annotated[Quotas, Parser(parse_quotas)]
NodeName = Annotated[str, Parser(_node_name)]
parse_tier = _one_of(*TIER_ORDER)
Tier = Annotated[str, Parser(parse_tier)]
Runtime = Annotated[str, Parser(_one_of("container", "process"))]
RuntimeChoice = Annotated[str, Parser(_one_of("auto", "container", "process"))]
CpuLevel = Annotated[str | None, Parser(_cpu_level)]
Binder = Annotated[str, Parser(_one_of("off", "token", "open"))]
ComputeKind = Annotated[str, Parser(_one_of("none", "local", "kubernetes"))]
OnRollback = Annotated[str, Parser(_one_of("replay", "stop"))]
LogFormat = Annotated[str, Parser(_one_of("text", "json"))]
LogLevel = Annotated[str, Parser(_one_of("debug", "info", "warning", "error"))]
Keep = Annotated[Retention, Parser(parse_retention)]
SessionLimits = Annotated[Limits, Parser(parse_limits)]
NoticeNames = Annotated[tuple[str, ...], Parser(lambda value: parse_names(str(value)))]
OnlyWhen = Annotated[Policy, Parser(lambda value: parse_policy(str(value)))]
