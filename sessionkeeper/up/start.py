"""What `sessionkeeper up` does before anything runs: settle, check, clean up."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess

from sessionkeeper.errors import StoreUnusable
from sessionkeeper.settings import UpSettings
from sessionkeeper.up import leftovers
from sessionkeeper.up.commands import Commands
from sessionkeeper.up.ports import require_port
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.supervisor import Supervisor
from sessionkeeper.up.terminal import Terminal

__all__ = ["bring_up", "namespaces_work"]

_TOOLS = ("ip", "nft", "nsenter", "unshare")


def bring_up(
    settings: UpSettings, *, runtime: str | None = None, commands: Commands | None = None
) -> None:
    """Run everything until it is told to stop. `runtime`: the one to use, when the machine need
    not be asked. Raises what the errors say: AlreadyRunning, PortTaken, StoreUnusable, CriuError,
    RuntimeUnavailable, NetworkError, ChildFailed."""
    terminal = Terminal()
    state = StateDirectory(settings.state)
    state.prepare()
    with state.locked():
        _log_to(state)
        leftovers.end_processes(state, terminal.say)
        leftovers.sweep(state)
        state.forget_record()
        require_port(settings.host, settings.port)
        _check_store(settings.store)
        if runtime is None:
            with terminal.step("looking at what this machine can do"):
                runtime = _choose_runtime(settings)
        supervisor = Supervisor(
            settings,
            state,
            runtime=runtime,
            namespaces=namespaces_work(),
            commands=commands,
            terminal=terminal,
        )
        asyncio.run(supervisor.run())


def namespaces_work() -> bool:
    """Whether nodes can have namespaces and a network of their own: with root, usually."""
    if os.geteuid() != 0 or not all(map(shutil.which, _TOOLS)):
        return False
    probes = (
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"],
        ["nft", "list", "tables"],
    )
    return all(
        subprocess.run(probe, capture_output=True, check=False).returncode == 0 for probe in probes
    )


def _check_store(url: str) -> None:
    from checkpoint.blobs import open_store, probe
    from checkpoint.errors import CheckpointError

    try:
        probe(open_store(url))
    except CheckpointError as error:
        raise StoreUnusable(f"the store {url} cannot be used: {error}", hint=error.hint) from None


def _choose_runtime(settings: UpSettings) -> str:
    raise NotImplementedError


def _log_to(state: StateDirectory) -> None:
    log = state.log("up")
    log.parent.mkdir(mode=0o700, exist_ok=True)
    logging.basicConfig(
        filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
