"""`bench launch`: from the click on a link to the answer of the first cell; the image is there."""

from __future__ import annotations

import asyncio
import http.client
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.exceptions import ConnectionClosed

from sessionkeeper.bench import own_image
from sessionkeeper.bench.client import SECONDS, Kernel, Server
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.stacks import System, sessionkeeper_system
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.writing import put
from sessionkeeper.launch.sources import Source, of_argument, resolve
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]

_TROUBLE = (SessionkeeperError, ConnectionClosed, OSError, http.client.HTTPException, ValueError)


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """`launch_s`, and the runtime that was used. The image is one of this machine's Python; the
    first launch, which brings it to a node, is none of the runs.
    """
    figure = Figure("launch_s")
    async with sessionkeeper_system(terminal) as system:
        if system.runtime != "container":
            figure.failures.append("only the container runtime runs images")
            return [figure], system.runtime
        figure.must = REQUIRED["launch_s"]
        with tempfile.TemporaryDirectory(prefix="repository-") as place:
            with terminal.step("making an image of this Python"):
                source = await _keep_image(system, Path(place))
            for number in range(runs + 1):
                with terminal.step(f"launch_s, {number}/{runs}"):
                    await system.rest()
                    try:
                        taken = await _launched(system, source)
                    except _TROUBLE as error:
                        figure.failures.append(f"run {number}: {error}")
                        taken = None
                if number:
                    figure.runs.append(taken)
    return [figure], system.runtime


async def _keep_image(system: System, repository: Path) -> Source:
    """Have a repository of which the image is known."""
    (repository / "README.md").write_text("a repository\n")
    source = await resolve(of_argument(str(repository), None, repository))
    store = ImageStore(system.state.gateway / "images")
    layers = [(await asyncio.to_thread(own_image.base_layer), "")]
    await asyncio.to_thread(put, store, source.image, layers, own_image.CONFIG)
    return source


async def _launched(system: System, source: Source) -> float:
    """Seconds from the click to the answer of a cell in the new session, which is deleted then."""
    began = time.perf_counter()
    ready = await asyncio.to_thread(_build, system.gateway, source)
    try:
        async with Kernel.started(Server(ready["url"].rstrip("/"), ready["token"])) as kernel:
            answer = await kernel.answer(await kernel.execute("6 * 7"))
        if answer.text != "42":
            raise RunFailed(f"the first cell answered {answer.text!r}")
        return answer.replied - began
    finally:
        path = f"/api/sessionkeeper/sessions/{quote(ready['session'])}"
        await system.close_ui(ready["session"])
        await system.gateway.ask("DELETE", path)


def _build(gateway: Server, source: Source) -> dict[str, Any]:
    """What is said when the session is ready. Raises RunFailed when it never is."""
    where = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
    try:
        headers = {**gateway.headers, "Accept": "text/event-stream"}
        connection.request("GET", f"/build/{source.provider}/{source.spec}", headers=headers)
        for line in connection.getresponse():
            if not line.startswith(b"data:"):
                continue
            event: dict[str, Any] = json.loads(line.partition(b":")[2])
            if event["phase"] == "ready":
                return event
            if event["phase"] == "failed":
                raise RunFailed(event["message"].strip())
    finally:
        connection.close()
    raise RunFailed("the connection ended before the session was ready")
