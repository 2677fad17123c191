"""Clean up after an instance: an earlier `up` that was killed, or this one at its end."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sessionkeeper.nodes import cgroups, processes
from sessionkeeper.nodes.bridged import BridgedNetwork
from sessionkeeper.nodes.local import cgroup_of, erase
from sessionkeeper.nodes.network import NetworkError
from sessionkeeper.up.state import StateDirectory

__all__ = ["end_processes", "sweep"]

GATEWAY_SECONDS = 15.0


def end_processes(state: StateDirectory, say: Callable[[str], None]) -> None:
    """End what an `up` that was killed left running. The gateway may make its final checkpoints
    first, with the nodes still there."""
    left = processes.parts(state.id)
    if not left:
        return
    say("ending what an earlier run left behind")
    for pid in [pid for pid, part in left.items() if part == "gateway"]:
        _terminate(pid, GATEWAY_SECONDS)
    cgroups.thaw(cgroup_of(state.id))
    stubborn = processes.end_all(lambda: processes.parts(state.id))
    if stubborn:
        say(f"these processes do not end: {', '.join(map(str, sorted(stubborn)))}")


def sweep(state: StateDirectory) -> None:
    """Remove what nodes of this instance have on the machine. Their processes are dead."""
    if os.geteuid() == 0 and shutil.which("ip") and shutil.which("nft"):
        with suppress(NetworkError):  # a kernel without nftables: then nothing was made
            BridgedNetwork(state.id).remove()
    cgroups.remove(cgroup_of(state.id))
    for node in sorted(state.nodes.iterdir()) if state.nodes.is_dir() else []:
        _unmount(node)
        erase(node)


def _terminate(pid: int, seconds: float) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            select.select([handle], [], [], seconds)
        finally:
            os.close(handle)


def _unmount(directory: Path) -> None:
    """Detach what is mounted below; a node's own mounts are in its own namespace, but a runtime
    that crashed without one may have left some here."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    for mount in reversed([one for one in mounts if Path(one).is_relative_to(directory)]):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
