"""`sessionkeeper node list|drain|kill|start|cordon|uncordon|revoke|token`: at the gateway."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable

from sessionkeeper.cli import api
from sessionkeeper.cli.running import state_of
from sessionkeeper.duration import parse_duration
from sessionkeeper.errors import UnknownNode, UsageError
from sessionkeeper.up import control
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.terminal import Terminal
from sessionkeeper.values import parse_price, parse_tier

__all__ = [
    "cordon",
    "create_token",
    "drain",
    "kill",
    "list_nodes",
    "list_tokens",
    "revoke",
    "start",
    "uncordon",
    "withdraw_token",
]


def list_nodes(arguments: Namespace) -> int:
    """A line for each node that the gateway knows."""
    found = api.nodes(state_of(arguments))
    if arguments.json:
        print(json.dumps({"nodes": found}, indent=1))
        return 0
    head = f"{'NODE':<12} {'STATE':<9} {'RUNTIME':<10} {'TIER':<10} {'CPU':<10}"
    print(f"{head} {'LAST SEEN':<10} SESSIONS")
    for node in found:
        seen = _ago(node["last_seen"])
        sessions = ", ".join(node["sessions"]) or "-"
        print(
            f"{node['name']:<12} {node['state']:<9} {node['runtime'] or '-':<10}"
            f" {node['tier'] or '-':<10} {node['cpu_level'] or '-':<10} {seen:<10} {sessions}"
        )
    for notice in (node["notice"] for node in found if node.get("notice")):
        print(notice)
    return 0


def _ago(at: float | None) -> str:
    if at is None:
        return "-"
    seconds = max(0.0, time.time() - at)
    return f"{seconds:.1f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"


def cordon(arguments: Namespace) -> int:
    """Nothing new is placed there."""
    api.cordon(state_of(arguments), arguments.name)
    print(f"nothing new goes to {arguments.name}; what is there stays")
    return 0


def uncordon(arguments: Namespace) -> int:
    """Take a cordon or a drain back."""
    api.uncordon(state_of(arguments), arguments.name)
    print(f"{arguments.name} takes sessions again")
    return 0


def revoke(arguments: Namespace) -> int:
    """It is not let in any more."""
    done = api.revoke(state_of(arguments), arguments.name)
    went = f"; {', '.join(done['sessions'])} goes on elsewhere" if done["sessions"] else ""
    print(f"{arguments.name} is not let in any more{went}")
    return 0


def create_token(arguments: Namespace) -> int:
    """Make a join token, and say what to do with it."""
    state = state_of(arguments)
    try:
        seconds = parse_duration(arguments.expires)
    except ValueError as error:
        raise UsageError(f"--expires: {arguments.expires!r} {error}") from None
    made = api.create_join_token(state, arguments.tier, arguments.uses, seconds)
    if arguments.json:
        print(json.dumps(made, indent=1))
        return 0
    Terminal().say(
        f"for {made['uses']} of the tier {made['tier']}, until {_clock(made['expires'])}; there:\n"
        f"  sessionkeeper node join https://THIS-GATEWAY --token {made['token']}"
    )
    print(made["token"])
    return 0


def list_tokens(arguments: Namespace) -> int:
    """A line for each that is good."""
    found = api.join_tokens(state_of(arguments))
    if arguments.json:
        print(json.dumps({"tokens": found}, indent=1))
        return 0
    print(f"{'ID':<10} {'TIER':<10} {'LEFT':>5} {'USED':>5} UNTIL")
    for one in found:
        until = _clock(one["expires"])
        print(f"{one['id']:<10} {one['tier']:<10} {one['uses']:>5} {one['used']:>5} {until}")
    return 0


def withdraw_token(arguments: Namespace) -> int:
    """It lets nobody in any more."""
    api.withdraw_join_token(state_of(arguments), arguments.id)
    print(f"{arguments.id} lets nobody in any more")
    return 0


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def drain(arguments: Namespace) -> int:
    """Give notice, and wait until everything has moved."""
    state = state_of(arguments)
    try:
        deadline = parse_duration(arguments.deadline)
    except ValueError as error:
        raise UsageError(f"--deadline: {arguments.deadline!r} {error}") from None
    names = [
        node["name"]
        for node in api.nodes(state)
        if node["state"] not in ("lost", "away", "revoked")
    ]
    if arguments.name not in names:
        raise _unknown(arguments.name, names)
    with Terminal().step(f"moving what runs on {arguments.name}"):
        done = api.drain(state, arguments.name, deadline)
    if done.get("left"):
        left = ", ".join(done["left"])
        why = done.get("why") or "`sessionkeeper status` says where it is"
        print(f"the deadline has passed and {left} has not moved: {why}")
        return 1
    moved = ", ".join(done["moved"]) or "nothing"
    print(f"{arguments.name} is drained: moved {moved} in {done['seconds']:.1f} s")
    if done.get("lost"):
        print(f"not all of it: {done['lost']}")
        return 1
    return 0


def kill(arguments: Namespace) -> int:
    """Pull the plug."""
    state = state_of(arguments)
    _known(state, arguments.name)
    with Terminal().step(f"pulling the plug of {arguments.name}"):
        control.request(state, "kill", node=arguments.name)
    print(f"{arguments.name} is gone")
    return 0


def start(arguments: Namespace) -> int:
    """Start a node, and wait until the gateway has it; a drained one takes sessions again."""
    state = state_of(arguments)
    if arguments.name in state.running()["nodes"] and _draining(state, arguments.name):
        api.uncordon(state, arguments.name)
        print(f"{arguments.name} takes sessions again")
        return 0
    with Terminal().step("starting a node"):
        done = control.request(
            state,
            "start",
            node=arguments.name,
            runtime=arguments.runtime,
            cpu_most=arguments.cpu_most,
            tier=_checked("--tier", arguments.tier, parse_tier),
            price=_checked("--price", arguments.price, parse_price),
        )
    print(f"{done['node']} is ready")
    return 0


def _checked(flag: str, text: str | None, parse: Callable[[object], object]) -> str | None:
    """What was typed, if the agent will take it."""
    try:
        if text is not None:
            parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {text!r} {error}") from None
    return text


def _draining(state: StateDirectory, name: str) -> bool:
    return any(node["name"] == name and node["state"] == "draining" for node in api.nodes(state))


def _known(state: StateDirectory, name: str) -> None:
    names = list(state.running()["nodes"])
    if name not in names:
        raise _unknown(name, names)


def _unknown(name: str, names: list[str]) -> UnknownNode:
    there = ", ".join(sorted(names)) or "none"
    return UnknownNode(f"no node {name!r} runs; there is {there}", hint="`sessionkeeper node list`")
