"""The systemd unit that keeps a machine joined. Pure.

Stopping it is a notice: what runs here moves first (`--grace`), so systemd must wait longer than
that. Kernels outlive an agent that crashed, and the next one takes them over: only the agent is
ended. A machine that is not let in any more is not started again. Source: systemd.service(5),
systemd.kill(5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ENVIRONMENT", "NAME", "path", "text"]

NAME = "sessionkeeper-node.service"


def path(*, root: bool, home: Path) -> Path:
    """Where the unit belongs: of the machine, or of the user who has no root."""
    if root:
        return Path("/etc/systemd/system") / NAME
    return home / ".config" / "systemd" / "user" / NAME


ENVIRONMENT = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")
"""What of the environment the way to the gateway may depend on."""


def text(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    root: bool,
    grace: float,
    refused: int,
) -> str:
    """The unit, with what of `environ` is in `ENVIRONMENT`.

    `command` runs in the foreground and ends within `grace` seconds, and some, after SIGTERM; with
    `refused` when the gateway does not let it in.
    """
    said = [f"{name}={environ[name]}" for name in ENVIRONMENT if environ.get(name)]
    kept = "".join(f"Environment={_quoted(one)}\n" for one in said)
    return f"""\
[Unit]
Description=sessionkeeper: offers this machine to a gateway
Wants=network-online.target
After=network-online.target

[Service]
{kept}ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in command)}
Restart=always
RestartSec=1
RestartPreventExitStatus={refused}
KillMode=process
TimeoutStopSec={grace + 30:.0f}
{"Delegate=yes" if root else "NoNewPrivileges=yes"}

[Install]
WantedBy={"multi-user.target" if root else "default.target"}
"""


def _quoted(word: str) -> str:
    """As systemd reads it: quotes, backslashes and `%` mean something there."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{plain}"' if plain != word or not word or any(c.isspace() for c in word) else word
