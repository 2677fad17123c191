"""`sessionkeeper session create|list|open|token|hibernate|resume|why|export|delete`."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sessionkeeper.cli import api, download
from sessionkeeper.cli.running import state_of
from sessionkeeper.errors import UsageError
from sessionkeeper.sizes import parse_size, spelled_size
from sessionkeeper.up import control
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.terminal import Terminal

_TERMS = ("price", "interruptions", "waiting", "crowd")

__all__ = [
    "create",
    "delete",
    "export",
    "have_token",
    "hibernate",
    "list_sessions",
    "open_ui",
    "resume",
    "token",
    "why",
]


def create(arguments: Namespace) -> int:
    """Begin a session; its token is kept in the state directory."""
    state = state_of(arguments)
    wish = {
        "name": arguments.name,
        "owner": arguments.owner,
        "image": arguments.image,
        "tiers": arguments.tiers.split(",") if arguments.tiers else None,
        "guarantee": _size("--guarantee", arguments.guarantee),
        "limit": _size("--limit", arguments.limit),
        "cores": arguments.cores,
        "secrets": arguments.secrets,
    }
    done = api.create(state, {what: said for what, said in wish.items() if said is not None})
    name = done["session"]["name"]
    state.keep_session_token(name, done["token"])
    if arguments.json:
        print(json.dumps(done, indent=1))
        return 0
    print(f"session {name} is begun; `sessionkeeper session open {name}` opens it in JupyterLab")
    return 0


def list_sessions(arguments: Namespace) -> int:
    """A line for each session."""
    found = api.sessions(state_of(arguments))
    if arguments.json:
        print(json.dumps({"sessions": found}, indent=1))
        return 0
    print(f"{'SESSION':<24} {'OWNER':<12} {'STATE':<11} {'NODE':<12} {'KERNELS':>7} SAVED")
    for one in found:
        saved = one.get("saved_at")
        ago = f"{max(0.0, time.time() - saved):.0f} s ago" if saved else "-"
        print(
            f"{one['name']:<24} {one['owner'] or '-':<12} {one['state']:<11}"
            f" {one.get('node') or '-':<12} {one.get('kernels', '-'):>7} {ago}"
        )
        if one.get("expires"):
            print(f"  ! {one['expires']['text']}")
    return 0


def open_ui(arguments: Namespace) -> int:
    """Start a UI server for the session, if there is none."""
    state = state_of(arguments)
    have_token(state, arguments.name)
    with Terminal().step(f"starting JupyterLab for {arguments.name}"):
        done = control.request(state, "ui", session=arguments.name)
    print(json.dumps(done, indent=1) if arguments.json else done["url"])
    return 0


def token(arguments: Namespace) -> int:
    """The session's token."""
    state = state_of(arguments)
    found, gateway = have_token(state, arguments.name), state.running()["gateway"]
    if arguments.json:
        print(json.dumps({"token": found, "gateway": gateway}, indent=1))
        return 0
    print(found)
    print(
        "With a stock Jupyter server:\n"
        f"  JUPYTER_GATEWAY_AUTH_TOKEN={found} jupyter server --gateway-url {gateway}",
        file=sys.stderr,
    )
    return 0


def hibernate(arguments: Namespace) -> int:
    """Save it, and release its compute."""
    with Terminal().step(f"saving {arguments.name}"):
        done = api.hibernate(state_of(arguments), arguments.name)
    newest = done["session"]["checkpoint"]
    kept = f"checkpoint {newest}" if newest else "nothing yet, as nothing ran"
    return _said(arguments, done, f"{arguments.name} hibernates: {kept}")


def resume(arguments: Namespace) -> int:
    """Have it run again."""
    with Terminal().step(f"resuming {arguments.name}"):
        done = api.resume(state_of(arguments), arguments.name)
    return _said(arguments, done, _where(done))


def why(arguments: Namespace) -> int:
    """Where it is, and why."""
    done = api.session(state_of(arguments), arguments.name)
    lines = [_where(done)]
    if done["why"] is not None:
        lines += _nodes(done["why"], done["session"]["node"])
        lines += [f"  {warning}" for warning in done["status"]["warnings"]]
    return _said(arguments, done, "\n".join(lines))


def _nodes(why: dict[str, Any], here: str | None) -> list[str]:
    """A line for each node: why not, or what it scores (the least is taken), and of what that is
    the sum."""
    lines = []
    for one in why["nodes"]:
        reason = one["reason"] or why["reasons"].get(one["node"], "")
        score = one["score"]
        terms = " + ".join(f"{name} {score[name]:.2f}" for name in _TERMS if score[name])
        said = f"{score['total']:.2f} = {terms or 'nothing'}"
        place = "is there" if one["node"] == here else reason or "would be taken"
        lines.append(f"  {one['node']}: {place} ({said})")
    return lines


def export(arguments: Namespace) -> int:
    """Its files and a report of its variables, as an archive."""
    state, name = state_of(arguments), arguments.name
    kind = download.kind_of(arguments.output, arguments.format)
    if arguments.output == "-":
        size = download.to_stream(state, name, kind, arguments.saved, sys.stdout.buffer)
        target = "standard output"
    else:
        path = Path(arguments.output or f"{name}.{kind}")
        with download.Progress(name) as progress:
            size = download.to_file(
                state, name, kind, arguments.saved, path, arguments.force, progress.show
            )
        target = str(path)
    if arguments.json:
        print(json.dumps({"session": name, "file": target, "bytes": size}, indent=1))
    elif arguments.output != "-":
        print(f"{target}: {spelled_size(size)}")
    return 0


def delete(arguments: Namespace) -> int:
    """Delete it for good."""
    state, name = state_of(arguments), arguments.name
    if name == state.running()["session"]:
        raise UsageError(f"{name} is the session that `up` was started with", hint="stop it first")
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"say --yes to delete session {name}", hint="there is no way back")
        question = f"Delete session {name} with all of its checkpoints for good? [y/N] "
        if input(question).strip().lower() not in {"y", "yes"}:
            print("nothing was deleted")
            return 1
    with Terminal().step(f"deleting {name}"):
        api.delete(state, name)
        control.request(state, "close_ui", session=name)
    state.session_token_file(name).unlink(missing_ok=True)
    return _said(arguments, {"session": name}, f"{name} is deleted")


def _where(done: dict[str, Any]) -> str:
    session, why = done["session"], done["why"]
    name, state = session["name"], session["state"]
    if state == "stored":
        return f"{name} is in the store; `sessionkeeper session resume {name}` has it here"
    if session["node"]:
        return f"{name} is {state} on {session['node']}"
    if state == "idle":
        return f"{name} is idle: it has no kernel, so it takes no compute"
    if state != "waiting":
        return f"{name} is {state}"
    place = f", place {why['place']} of {why['line']} in the line" if why["place"] else ""
    return f"{name} waits for a node{place}"


def have_token(state: StateDirectory, name: str) -> str:
    """The session's token, a new one if none is known here; its file is there afterwards."""
    path = state.session_token_file(name)
    if not path.exists():
        state.keep_session_token(name, api.new_token(state, name))
    return path.read_text().strip()


def _said(arguments: Namespace, done: dict[str, Any], text: str) -> int:
    print(json.dumps(done, indent=1) if arguments.json else text)
    return 0


def _size(flag: str, text: str | None) -> int | None:
    try:
        return parse_size(text) if text else None
    except ValueError as error:
        raise UsageError(f"{flag}: {text!r} {error}") from None
