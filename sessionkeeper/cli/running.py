"""`sessionkeeper up|down|status|url|doctor|setup`."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sessionkeeper.settings import UpSettings, default_state, load
from sessionkeeper.sizes import spelled_size
from sessionkeeper.up.state import StateDirectory

__all__ = ["doctor", "down", "setup", "state_of", "status", "up", "url"]


def state_of(arguments: Namespace) -> StateDirectory:
    """The state directory that is meant: `--state`, `SESSIONKEEPER_STATE`, or the default."""
    return StateDirectory(load(UpSettings, {"state": arguments.state}).state)


def up(arguments: Namespace) -> int:
    """Start everything; returns when it has ended."""
    from sessionkeeper.up.start import bring_up

    config = Path(arguments.config) if arguments.config else None
    bring_up(load(UpSettings, vars(arguments), config=config))
    return 0


def down(arguments: Namespace) -> int:
    """Stop a running `up`, or what one that was killed left running."""
    from sessionkeeper.up import control, leftovers
    from sessionkeeper.up.terminal import Terminal

    state, terminal = state_of(arguments), Terminal()
    if state.is_locked():
        with terminal.step("stopping: the session is saved first"):
            control.request(state, "stop")
            with state.locked(wait=True):
                pass
        print("stopped")
        return 0
    if state.read_record() is None:
        raise state.not_running()
    with state.locked():
        leftovers.end_processes(state, terminal.say)
        leftovers.sweep(state)
        state.forget_record()
    print("it was not running; what it had left behind is gone")
    return 0


def status(arguments: Namespace) -> int:
    """What the gateway says of the session."""
    from sessionkeeper.cli import api

    state = state_of(arguments)
    found = api.status(state, arguments.session)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    if arguments.session in {None, state.running()["session"]}:
        print(f"JupyterLab   {state.running()['url']}")
    for line in described(found, time.time()):
        print(line)
    return 0


def described(found: dict[str, Any], now: float) -> list[str]:
    """A status in words: where, how old the newest checkpoint is, what happened. `now` is in
    seconds since the epoch."""
    lines = [f"session      {found['session']}: {found['state']}"]
    if found["node"]:
        lines.append(f"node         {found['node']} ({found['runtime']})")
    checkpoint = found["checkpoint"]
    if checkpoint:
        age = max(0.0, now - checkpoint["at"])
        size = checkpoint["total_bytes"] / 1e6
        lines.append(f"checkpoint   number {checkpoint['number']}, {age:.0f} s old, {size:.0f} MB")
    else:
        lines.append("checkpoint   none yet")
    if saving := found.get("saving"):
        sent, seconds = spelled_size(int(saving["bytes"])), saving["seconds"]
        lines.append(f"being saved  {sent} came from the node in {seconds:.0f} s")
    last = found.get("upkeep", {}).get("last")
    if last:
        ago = max(0.0, now - last["at"]) / 60
        gone = f"{last['checkpoints']} checkpoints, {last['packs']} packs"
        lines.append(f"cleared      {gone}, {ago:.0f} min ago")
    lines += [f"warning      {warning}" for warning in found["warnings"]]
    for event in found["events"][-10:]:
        when = time.strftime("%H:%M:%S", time.localtime(event["at"]))
        lines.append(f"{when}     {event['text']}")
    return lines


def url(arguments: Namespace) -> int:
    """The URL for the browser."""
    print(state_of(arguments).running()["url"])
    return 0


def doctor(arguments: Namespace) -> int:
    """What this machine can do."""
    from sessionkeeper import doctor, machine

    facts = machine.examine(Path(arguments.state) if arguments.state else default_state())
    print(doctor.as_json(facts) if arguments.json else doctor.render(facts))
    return 0


def setup(arguments: Namespace) -> int:
    """Install something."""
    from sessionkeeper import setup

    return setup.main([arguments.what, *(["--rebuild"] if arguments.rebuild else [])])
