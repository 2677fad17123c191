"""The supervisor's control socket: one JSON request per connection, one JSON answer, by lines.

{"command": "kill", "node": "node-1"}  ->  {"result": {...}}
                                       or  {"error": {"code", "message", "hint", "exit_code"}}
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sessionkeeper.errors import SessionkeeperError, UsageError, explain
from sessionkeeper.up.state import StateDirectory

__all__ = ["request", "serve"]

_SECONDS = 120.0

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def serve(listener: socket.socket, handler: Handler) -> asyncio.Server:
    """Answer requests with what `handler` returns or raises."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(json.dumps(await _handle(await reader.readline(), handler)).encode())
            writer.write(b"\n")
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, sock=listener)


async def _handle(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        call = json.loads(line)
        if not isinstance(call, dict):
            raise UsageError("a request is a JSON object")
        return {"result": await handler(call)}
    except ValueError:
        return {"error": _described(UsageError("a request is one line of JSON"))}
    except SessionkeeperError as error:
        return {"error": _described(error)}
    except Exception as error:  # the supervisor must outlive a bug in one command
        return {"error": _described(SessionkeeperError(explain(error)))}


def _described(error: SessionkeeperError) -> dict[str, Any]:
    described = {"code": error.code, "message": str(error), "hint": error.hint}
    return {**described, "exit_code": error.exit_code}


def request(state: StateDirectory, command: str, **arguments: object) -> dict[str, Any]:
    """Ask the supervisor of a state directory; its answer. Raises its error, or NotRunning."""
    call = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with state.control_address() as address:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_SECONDS)
            connection.connect(address)
        with connection, connection.makefile("rb") as answers:
            connection.sendall(call)
            line = answers.readline()
    except TimeoutError:
        raise SessionkeeperError(f"the supervisor took more than {_SECONDS:.0f} s") from None
    except OSError:
        raise state.not_running() from None
    if not line:
        raise state.not_running()
    answer = json.loads(line)
    if "error" in answer:
        raise _rebuilt(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _rebuilt(described: dict[str, Any]) -> SessionkeeperError:
    error = SessionkeeperError(described["message"], hint=described["hint"])
    error.code, error.exit_code = described["code"], described["exit_code"]
    return error
