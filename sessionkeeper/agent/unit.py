"""The systemd unit that keeps a machine joined. Pure.

Stopping it is a notice: what runs here moves first (`--grace`), so systemd must wait longer than
that. Kernels outlive an agent that crashed, and the next one takes them over: only the agent is
ended. A machine that is not let in any more is not started again. Source: systemd.service(5),
systemd.kill(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["NAME", "path", "text"]

NAME = "sessionkeeper-node.service"


def path(*, root: bool, home: Path) -> Path:
    """Where the unit belongs: of the machine, or of the user who has no root."""
    if root:
        return Path("/etc/systemd/system") / NAME
    return home / ".config" / "systemd" / "user" / NAME


def text(command: Sequence[str], *, root: bool, grace: float, refused: int) -> str:
    """The unit. `command` runs in the foreground and ends after SIGTERM, within `grace` seconds and
    some; it ends with `refused` when the gateway does not let it in.
    """
    return f"""\
[Unit]
Description=sessionkeeper: offers this machine to a gateway
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={" ".join(map(_quoted, command))}
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
    """As systemd reads it: quotes, backslashes, `%` and `$` mean something there."""
    plain = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{plain}"' if plain != word or not word or any(c.isspace() for c in word) else word
