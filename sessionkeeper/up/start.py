"""What `sessionkeeper up` does before anything runs: settle, check, clean up."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace

from sessionkeeper import logs
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
        _log_to(state, settings)
        leftovers.end_processes(state, terminal.say)
        leftovers.sweep(state)
        state.forget_record()
        require_port(settings.host, settings.port)
        state.make_session_token(settings.session)
        _check_store(settings, state)
        if runtime is None:
            with terminal.step("looking at what this machine can do"):
                runtime, settings = settle_runtime(settings, terminal.say)
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


def _check_store(settings: UpSettings, state: StateDirectory) -> None:
    from checkpoint.blobs import Backoff, open_store, probe
    from checkpoint.errors import CheckpointError
    from sessionkeeper.keeper.epochs import has_run

    url, begun = settings.store, has_run(state.gateway, settings.session)
    try:
        probe(open_store(url, Backoff(limit=5), begun=begun))  # somebody waits to be told
    except CheckpointError as error:
        hint = None if error.retryable else error.hint  # no session runs yet that could go on
        raise StoreUnusable(f"the store {url} cannot be used: {error}", hint=hint) from None


def settle_runtime(settings: UpSettings, say: Callable[[str], None]) -> tuple[str, UpSettings]:
    """The runtime, and the settings with the CRIU that it uses. Says why it is not containers
    when nobody asked for that. Raises CriuError or RuntimeUnavailable."""
    from sessionkeeper import criu, doctor, machine

    if settings.criu:
        os.environ["SESSIONKEEPER_CRIU"] = str(settings.criu)  # what `criu.find` goes by
    if settings.criu or (settings.runtime == "container" and os.geteuid() == 0):
        criu.require()
    facts = machine.examine(settings.state)
    runtime = doctor.choose_runtime(settings.runtime, facts)
    if runtime == "container":
        return runtime, replace(settings, criu=criu.require().path)
    if settings.runtime == "auto":
        verdict = doctor.decide(facts)
        say("Kernels run as plain processes here: their variables survive a node, not the process.")
        for reason in verdict.reasons:
            say(f"  {reason}")
        for command in verdict.commands:
            say(f"  to change that: {command}")
    return runtime, settings


def _log_to(state: StateDirectory, settings: UpSettings) -> None:
    log = state.log("up")
    log.parent.mkdir(mode=0o700, exist_ok=True)
    logs.set_up("up", settings.log_format, settings.log_level, file=log)
    # What the parts go by, which are started with this environment.
    os.environ["SESSIONKEEPER_LOG_FORMAT"] = settings.log_format
    os.environ["SESSIONKEEPER_LOG_LEVEL"] = settings.log_level
