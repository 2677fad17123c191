"""Which ports are free, and who has one that is not."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from sessionkeeper.errors import PortTaken, UsageError

__all__ = ["choose_port", "require_port"]


def require_port(host: str, port: int) -> None:
    """Raise PortTaken, with the process that listens there, or UsageError when this machine has
    no such address or the port needs root."""
    error = _try(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        holder = _listener(port)
        raise PortTaken(f"port {port} on {host} is taken" + (f" by {holder}" if holder else ""))
    if error.errno == errno.EACCES:
        raise UsageError(f"port {port} needs root", hint="choose one above 1023 with --port")
    raise UsageError(f"cannot listen on {host}: {error.strerror}", hint="see --host")


def choose_port(hosts: list[str], first: int, given: frozenset[int] = frozenset()) -> int:
    """The first port from `first` on that is free on all of `hosts` and not `given` to somebody who
    does not listen yet; PortTaken when 200 are not."""
    for port in range(first, min(first + 200, 65536)):
        if port not in given and all(_try(host, port) is None for host in hosts):
            return port
    raise PortTaken(f"no port is free from {first} on")


def _try(host: str, port: int) -> OSError | None:
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _listener(port: int) -> str:
    """`name (process id)` of who listens on a port, as far as this user may know; else empty."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for entry in Path("/proc").iterdir():
        if wanted and entry.name.isdigit():
            with suppress(OSError):
                for file in (entry / "fd").iterdir():
                    if os.readlink(file) in wanted:
                        return f"{(entry / 'comm').read_text().strip()} (process {entry.name})"
    return ""


def _inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                listening = fields[3] == "0A"
                if listening and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found - {"0"}
