"""`sessionkeeper launch URL|PATH`: asks the gateway, as any Binder client would."""

from __future__ import annotations

import http.client
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from sessionkeeper.cli.running import state_of
from sessionkeeper.errors import EXIT_CODES, SessionkeeperError, Unavailable
from sessionkeeper.launch.sources import of_argument
from sessionkeeper.up.state import StateDirectory

__all__ = ["launch"]

_SILENCE = 120.0
"""Seconds without even a sign of life after which the gateway is given up."""


def launch(arguments: Namespace) -> int:
    """Build, launch, and print the URL."""
    state = state_of(arguments)
    source = of_argument(arguments.source, arguments.ref, Path.cwd())
    query = {
        "build_only": "true" if arguments.build_only else "",
        "rebuild": "true" if arguments.rebuild else "",
        "session": arguments.name or "",
    }
    asked = urlencode({name: said for name, said in query.items() if said})
    path = f"/build/{source.provider}/{source.spec}?{asked}"
    for event in _events(state, path):
        if arguments.json:
            print(json.dumps(event), flush=True)
        elif not arguments.quiet or event["phase"] in ("failed",):
            _show(event)
        if event["phase"] == "failed":
            return _exit_code(event)
        if event["phase"] == "ready":
            if not arguments.json:
                print(_result(event))
            return 0
    raise Unavailable("the gateway ended the connection before it was done")


def _show(event: dict[str, Any]) -> None:
    if event["phase"] == "ready":
        return
    text = str(event["message"])
    sys.stderr.write(text if text.endswith(("\n", "\r")) else f"{text}\n")
    sys.stderr.flush()


def _result(event: dict[str, Any]) -> str:
    if "url" not in event:
        return str(event["imageName"])
    return f"{event['url']}lab?token={event['token']}"


def _exit_code(event: dict[str, Any]) -> int:
    kinds: list[type[SessionkeeperError]] = [SessionkeeperError]
    while kinds:
        kind = kinds.pop()
        if kind.code == event.get("code"):
            return kind.exit_code
        kinds += kind.__subclasses__()
    return EXIT_CODES.get(str(event.get("code")), 1)


def _events(state: StateDirectory, path: str) -> Iterator[dict[str, Any]]:
    where = urlsplit(state.running()["gateway"])
    headers = {
        "Authorization": f"token {state.token('gateway')}",
        "Accept": "text/event-stream",
    }
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_SILENCE)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            text = answer.read().decode(errors="replace")
            raise Unavailable(f"the gateway answered {answer.status}: {text}")
        for line in answer:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the gateway does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
