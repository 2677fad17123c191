"""What operators of jupyter-kernel-gateway can tell this gateway, under the names they know.

From, later ones winning: the default, a Jupyter configuration file (`c.KernelGatewayApp.x = …`, or
its JSON), the environment (`KG_MAX_KERNELS=5`), the command line (`--KernelGatewayApp.x=…`).
Options that cannot hold here are refused with the reason, never ignored. docs/gateway.md lists all.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gateway.errors import OptionRefused

SECTIONS = ("KernelGatewayApp", "JupyterWebsocketPersonality")
_NONE = (None, "")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options, typed; the defaults are those of jupyter-kernel-gateway 3.0, but for
    `list_kernels`: who has the token has the kernels.

    The six of CORS are values of headers, sent if not empty. `base_url` begins and ends with "/".
    `env_whitelist`: what clients may set in a kernel's environment beside `KERNEL_*`, "*" for all;
    `env_process_whitelist`: what kernels get of the gateway's own. `ws_ping_interval`: seconds, 0
    for none. `port`, `ip`, `auth_token`, `log_level`: None where another setting says it.
    """

    allow_credentials: str = ""
    allow_headers: str = ""
    allow_methods: str = ""
    allow_origin: str = ""
    expose_headers: str = ""
    max_age: str = ""
    base_url: str = "/"
    trust_xheaders: bool = False
    list_kernels: bool = True
    max_kernels: int | None = None
    default_kernel_name: str = ""
    force_kernel_name: str = ""
    env_whitelist: tuple[str, ...] = ()
    env_process_whitelist: tuple[str, ...] = ()
    prespawn_count: int = 0
    seed_uri: str | None = None
    ws_ping_interval: int = 0
    certfile: str | None = None
    keyfile: str | None = None
    client_ca: str | None = None
    ssl_version: int | None = None
    port: int | None = None
    ip: str | None = None
    auth_token: str | None = None
    log_level: str | None = None

    def __post_init__(self) -> None:
        if self.max_kernels is not None and self.prespawn_count > self.max_kernels:
            raise OptionRefused(
                f"prespawn_count is {self.prespawn_count}, more than max_kernels, "
                f"{self.max_kernels}."
            )
        if (self.keyfile or self.client_ca) and not self.certfile:
            raise OptionRefused("keyfile and client_ca need a certfile.")


# -- what may be said, and how it is read ----------------------------------------------------------


def _text(value: Any) -> str:
    return str(value).strip()


def _optional(value: Any) -> str | None:
    return None if value in _NONE else str(value)


def _token(value: Any) -> str | None:
    if not value:
        raise ValueError("is empty: this gateway is never open to everyone")
    return str(value)


def _number(value: Any) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError("is not a whole number of 0 or more")
    return number


def _optional_number(value: Any) -> int | None:
    return None if value in _NONE else _number(value)


def _count(value: Any) -> int:
    return 0 if value in _NONE else _number(value)


def _boolean(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ValueError("is neither True nor False") from None


def _names(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else list(value)
    return tuple(str(name).strip() for name in names if str(name).strip())


_OWN_SECRETS = ("SESSIONKEEPER_", "KG_AUTH_TOKEN", "AWS_")


def _inherited(value: Any) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        if name.startswith(_OWN_SECRETS):
            raise ValueError(f"names {name}, which may be a secret that kernels must not have")
    return names


def _base_url(value: Any) -> str:
    path = str(value).strip("/")
    return f"/{path}/" if path else "/"


def _api(value: Any) -> None:
    if str(value) not in ("kernel_gateway.jupyter_websocket", "jupyter-websocket", "None"):
        raise ValueError(
            "is not served here: only kernel_gateway.jupyter_websocket is. For notebook-http and "
            "others run the stock `jupyter kernelgateway`"
        )


def _no_retries(value: Any) -> None:
    if str(value) not in ("0", "None"):
        raise ValueError(
            "is refused: nodes and UI servers know one port; a port that is taken is an error "
            "(KG_PORT_RETRIES=0 is accepted)"
        )


def _tls_version(value: Any) -> int | None:
    number = _optional_number(value)
    sound = (ssl.PROTOCOL_TLS, ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLSv1_2)
    if number is not None and number not in sound:
        raise ValueError(
            f"is refused: TLS 1.2 and newer are spoken ({[int(one) for one in sound]})"
        )
    return number


def _level(value: Any) -> str:
    names = {"10": "DEBUG", "20": "INFO", "30": "WARNING", "40": "ERROR", "50": "CRITICAL"}
    level = names.get(str(value), str(value).upper())
    if level not in names.values():
        raise ValueError(f"is none of {', '.join(names.values())}")
    return level


_KERNELS = "kernels run on nodes, through agents, and are no child processes of the gateway"
_COOKIES = "no cookie gives access to this gateway: the token does"
_ONE_TOKEN = "the token decides what a client may do"  # noqa: S105

_READ: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        (
            "allow_credentials",
            "allow_headers",
            "allow_methods",
            "allow_origin",
            "expose_headers",
            "max_age",
            "default_kernel_name",
            "force_kernel_name",
        ),
        _text,
    ),
    **dict.fromkeys(("seed_uri", "certfile", "keyfile", "client_ca", "ip"), _optional),
    **dict.fromkeys(("trust_xheaders", "list_kernels"), _boolean),
    "base_url": _base_url,
    "max_kernels": _optional_number,
    "port": _optional_number,
    "prespawn_count": _count,
    "ws_ping_interval": _number,
    "env_whitelist": _names,
    "env_process_whitelist": _inherited,
    "ssl_version": _tls_version,
    "auth_token": _token,
    "log_level": _level,
    # Said so that it can be checked; nothing follows from it.
    "api": _api,
    "port_retries": _no_retries,
}
REFUSED: dict[str, str] = {
    "kernel_manager_class": _KERNELS,
    "kernel_spec_manager_class": "kernelspecs are those of the nodes",
    "kernel_websocket_connection_class": "its journal and resumption are what this gateway is for",
    "authorizer_class": _ONE_TOKEN,
    "identity_provider_class": _ONE_TOKEN,
    "cookie_secret": _COOKIES,
    "cookie_secret_file": _COOKIES,
    "answer_yes": "nothing is asked on a terminal",
    "config_file": "say --config FILE",
    "config_file_name": "say --config FILE",
    "generate_config": "it is of `jupyter kernelgateway`, whose file is read here as well",
    "show_config": "docs/gateway.md lists the options",
    "show_config_json": "docs/gateway.md lists the options",
    "log_format": "the format is text or JSON lines: SESSIONKEEPER_LOG_FORMAT",
    "log_datefmt": "the format is text or JSON lines: SESSIONKEEPER_LOG_FORMAT",
    "logging_config": "the format is text or JSON lines: SESSIONKEEPER_LOG_FORMAT",
}

_ENVIRONMENT = {
    "KG_" + name.upper(): name
    for name in _READ
    if name not in ("log_level", "ws_ping_interval", "env_process_whitelist")
} | {
    "KG_WS_PING_INTERVAL_SECS": "ws_ping_interval",
    "KG_ENV_PROCESS_WHITELIST": "env_process_whitelist",
}
FLAGS = tuple(f"--{section}." for section in (*SECTIONS, "Application", "JupyterApp"))
"""How flags of the command line begin that are ours to read."""


def read_options(
    flags: Sequence[str] = (),
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Options:
    """Options from all sources. Raises `OptionRefused`, which names the source."""
    given: dict[str, tuple[str, Any]] = {}
    if config is not None:
        given |= _from_file(config)
    for variable, value in (environ or {}).items():
        if variable in _ENVIRONMENT:
            given[_ENVIRONMENT[variable]] = (variable, value)
        elif variable.startswith("KG_"):
            raise OptionRefused(f"{variable} is no option of a kernel gateway that is known here.")
    for flag in flags:
        name, equals, value = flag.partition("=")
        given[name.rpartition(".")[2]] = (name, value if equals else "True")
    known = {one.name for one in fields(Options)}
    values = {name: _value(name, *said) for name, said in given.items()}
    return Options(**{name: value for name, value in values.items() if name in known})


def _from_file(config: Path) -> dict[str, tuple[str, Any]]:
    # Here, because most gateways have no such file and need not carry what reads it.
    from traitlets.config.loader import (
        ConfigFileNotFound,
        JSONFileConfigLoader,
        PyFileConfigLoader,
    )

    loader = JSONFileConfigLoader if config.suffix == ".json" else PyFileConfigLoader
    try:
        content = loader(config.name, str(config.parent)).load_config()
    except ConfigFileNotFound as error:
        raise OptionRefused(f"{config} cannot be read: {error}") from None
    except Exception as error:  # what a Python file does is its author's
        raise OptionRefused(f"{config}: {type(error).__name__}: {error}") from error
    given = {}
    for section, values in content.items():
        if section == "version":
            continue
        if f"--{section}." not in FLAGS:
            raise OptionRefused(f"{config}: there is no {section} in this gateway.")
        for name, value in values.items():
            given[name] = (f"{section}.{name} in {config}", value)
    return given


def _value(name: str, source: str, value: Any) -> Any:
    if name in REFUSED:
        raise OptionRefused(f"{source} is refused: {REFUSED[name]}.")
    if name not in _READ:
        raise OptionRefused(f"{source} is no option that is known here.")
    try:
        return _READ[name](value)
    except ValueError as error:
        shown = "its value" if name == "auth_token" else repr(value)
        raise OptionRefused(f"{source}: {shown} {error}.") from None
