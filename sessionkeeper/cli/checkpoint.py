"""`sessionkeeper checkpoint list|tag|untag|restore|fork|prune`: those of the session that runs."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from sessionkeeper.cli import api
from sessionkeeper.cli.running import state_of
from sessionkeeper.up.terminal import Terminal

__all__ = ["fork", "list_checkpoints", "prune", "restore", "tag", "untag"]


def list_checkpoints(arguments: Namespace) -> int:
    """A line for each checkpoint, oldest first."""
    found = api.checkpoints(state_of(arguments), session=arguments.session)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{'NUMBER':>6}  {'MADE':<19} {'SIZE':>10} {'NEW':>10}  {'TAGS':<20} KERNELS")
    for one in found["checkpoints"]:
        print(described(one))
    return 0


def described(one: dict[str, Any]) -> str:
    """A checkpoint as a line of the table."""
    if "error" in one:
        return f"{one['number']:>6}  {one['error']}"
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["created"]))
    tags = ", ".join(one["tags"]) or "-"
    kernels = ", ".join(one["kernels"]) or "-"
    again = f"  (went back to {one['went_back']})" if one["went_back"] is not None else ""
    return (
        f"{one['number']:>6}  {made:<19} {one['bytes'] / 1e6:>7.1f} MB"
        f" {one['added_bytes'] / 1e6:>7.1f} MB  {tags:<20} {kernels}{again}"
    )


def tag(arguments: Namespace) -> int:
    """Name a checkpoint, or the present moment."""
    with Terminal().step("saving the session" if arguments.number is None else "naming it"):
        done = api.tag(
            state_of(arguments), arguments.name, arguments.number, session=arguments.session
        )
    print(f"checkpoint {done['number']} is called {arguments.name}, and is kept")
    return 0


def untag(arguments: Namespace) -> int:
    """Take a name away."""
    api.untag(state_of(arguments), arguments.name, session=arguments.session)
    print(f"no checkpoint is called {arguments.name} any more")
    return 0


def restore(arguments: Namespace) -> int:
    """Go back."""
    with Terminal().step(f"going back to checkpoint {arguments.at}"):
        done = api.restore(
            state_of(arguments), arguments.at, arguments.discard, session=arguments.session
        )
    text = f"the session went back to checkpoint {done['to']}, which is {done['number']} now"
    where = f"; it runs on {done['node']}" if done["node"] else ""
    print(text + where)
    if done["tag"]:
        print(f"what was before is checkpoint {done['saved']}, {done['tag']}")
    return 0


def fork(arguments: Namespace) -> int:
    """Begin another session."""
    state = state_of(arguments)
    done = api.fork(state, arguments.at, arguments.new, session=arguments.session)
    name = done["session"]
    print(
        f"session {name} begins there; open it beside this one with\n"
        f"  sessionkeeper session open {name} --state {state.path}\n"
        "or with a gateway of its own\n"
        f"  sessionkeeper up --state DIR --port PORT --session {name}"
        f" --store {state.running()['store']} --master-key {state.running()['master_key']}"
    )
    return 0


def prune(arguments: Namespace) -> int:
    """Have old checkpoints cleared away now."""
    with Terminal().step("clearing away old checkpoints"):
        done = api.prune(state_of(arguments), session=arguments.session)
    print(
        f"deleted {done['checkpoints']} checkpoints and {done['packs']} packs;"
        f" {done['listed']} packs wait for a later run"
    )
    if done["waits_for"]:
        print(f"  until {', '.join(done['waits_for'])} has two more checkpoints, or is not run")
    return 0
