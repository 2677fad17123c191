"""`bench gateway`: what a gateway takes, and what it loses.

First cells through all hops, beside stock servers; then hundreds of links as kernels.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sessionkeeper.bench import latency, load, stacks
from sessionkeeper.bench.client import Kernel, text_of
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.figures import REQUIRED, Figure, median, percentile
from sessionkeeper.bench.load import Rig, counted, resident_mb
from sessionkeeper.bench.stacks import PEERS, Stack, System, sessionkeeper_system
from sessionkeeper.bench.wire import SUBPROTOCOL, decode
from sessionkeeper.nodes import processes
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]

MB = 1_000_000
FIGURES = (
    "latency_p50_ms",
    "latency_p99_ms",
    "stream_mb_per_s",
    "stream_lost",
    "message_50mb_mb_per_s",
    "message_200mb_mb_per_s",
    "idle400_rss_mb",
    "idle400_cpu_percent",
    "fanin_lost",
    "fanin_p99_ms",
    "gateway_restart_s",
    "replay_100k_s",
    "ui_rss_mb",
)
"""In the order in which they are told."""

MOST_RUNS = 3
"""Of each that takes seconds."""

PIECES, PIECE = 5000, 10_000
MESSAGES = (50, 200)
REPLAYED = 100_000
IDLE, BUSY = 400, 100
RATE, FOR = 5000.0, 60.0
_SETTLED, _WATCHED, _FLOWING = 5.0, 10.0, 3.0
_SILENT, _LONG_SILENT = 15.0, 60.0
"""Seconds after which a server that says nothing has lost what is missing: of many
messages, of a large one."""

_STREAM = f"""\
import sys
for number in range({PIECES}):
    sys.stdout.write(f"{{number:06d}} " + "x" * ({PIECE} - 8) + "\\n")
    sys.stdout.flush()
"""
_MANY = f"""\
import sys
for number in range({REPLAYED}):
    stream = sys.stderr if number % 2 else sys.stdout
    stream.write(f"{{number}}\\n")
    stream.flush()
"""
"""By turns, as neighbours of one stream may go together: these are as many messages."""

_SHOW = "from IPython.display import display\ndisplay({{'text/plain': 'x' * {0}}}, raw=True)"

Measured = dict[str, list[float | None]]


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """All figures of the gateway, and the runtime that was used."""
    few = min(runs, MOST_RUNS)
    async with sessionkeeper_system(terminal) as system:
        own = await _through_all(terminal, "sessionkeeper", system, few)
        own["ui_rss_mb"] = [await _ui_resident(system)]
        replay = Figure("replay_100k_s", must=REQUIRED["replay_100k_s"])
        for number in range(1, few + 1):
            try:
                replay.runs.append(await _replay(terminal, system))
            except (RunFailed, ConnectionClosed, TimeoutError) as error:
                replay.runs.append(None)
                replay.failures.append(f"run {number}: {error!r}")
        runtime = system.runtime
    figures = {
        name: Figure(name, runs=found, must=REQUIRED.get(name)) for name, found in own.items()
    }
    figures[replay.name] = replay
    for name, started in PEERS.items():
        async with started(terminal) as stack:
            theirs = await _through_all(terminal, name, stack, few)
        for figure, found in theirs.items():
            figures[figure].peers[name] = median(found)
    async with stacks.lab_server(terminal) as stack:
        await _open_lab(stack)
        await stack.rest()
        figures["ui_rss_mb"].peers["jupyter-server"] = resident_mb(stack.pid)
    async with load.rig(terminal) as rig:
        await _under_load(terminal, rig, figures)
    return [figures[name] for name in FIGURES], runtime


# -- through all hops ------------------------------------------------------------------------------


async def _through_all(terminal: Terminal, name: str, stack: Stack, runs: int) -> Measured:
    rounds = await latency.rounds(terminal, name, stack, runs)
    found: Measured = {
        "latency_p50_ms": [one[0] for one in rounds],
        "latency_p99_ms": [one[1] for one in rounds],
        "stream_mb_per_s": [],
        "stream_lost": [],
    }
    for _ in range(runs):
        async with Kernel.started(stack.server) as kernel:
            await kernel.info()
            with terminal.step(f"{name}: 50 MB in pieces"):
                rate, lost = await _stream(kernel)
        found["stream_mb_per_s"].append(rate)
        found["stream_lost"].append(lost)
        terminal.say(f"  {rate:.1f} MB/s, {lost} pieces lost")
    for size in MESSAGES:
        values: list[float | None] = []
        for _ in range(runs):
            async with Kernel.started(stack.server) as kernel:
                with terminal.step(f"{name}: one message of {size} MB"):
                    values.append(await _one_message(kernel, size * MB))
            said = "lost" if values[-1] is None else f"{values[-1]:.1f} MB/s"
            terminal.say(f"  {said}")
        found[f"message_{size}mb_mb_per_s"] = values
    return found


async def _stream(kernel: Kernel) -> tuple[float, int]:
    """10**6 bytes per second that arrived, and pieces that did not."""
    began = time.perf_counter()
    request = await kernel.execute(_STREAM)
    pieces: list[str] = []
    replied = idle = False
    last = began
    with suppress(RunFailed, ConnectionClosed):  # what is lost may be the end
        async for message in kernel.messages(request, _SILENT):
            last = message.at
            pieces.append(text_of(message))
            replied |= message.channel == "shell"
            idle |= message.content.get("execution_state") == "idle"
            if replied and idle:
                break
    lines = "".join(pieces).split("\n")
    numbers = {int(line[:6]) for line in lines if len(line) == PIECE - 1}
    return len(numbers) * PIECE / MB / (last - began or 1.0), PIECES - len(numbers)


async def _one_message(kernel: Kernel, size: int) -> float | None:
    """10**6 bytes per second; None when it did not arrive."""
    try:
        await kernel.run("pass")
        began = time.perf_counter()
        request = await kernel.execute(_SHOW.format(size))
        async for message in kernel.messages(request, _LONG_SILENT):
            if message.type == "display_data":
                whole = len(message.content["data"]["text/plain"]) == size
                return size / MB / (message.at - began) if whole else None
            if message.channel == "shell" and message.content["status"] != "ok":
                return None
    except (RunFailed, ConnectionClosed):
        pass
    return None


async def _replay(terminal: Terminal, system: System) -> float:
    """A tab leaves, its kernel says 100,000 messages, the tab comes back: seconds until it has all
    of them. Raises RunFailed when it has not each once."""
    server = system.server
    async with Kernel.started(server) as kernel:
        await kernel.info()
        session = uuid.uuid4().hex
        path = f"/api/kernels/{kernel.id}/channels?session_id={session}"

        def tab_opened() -> connect:
            return connect(
                server.websocket_url(path),
                additional_headers=server.headers,
                subprotocols=[SUBPROTOCOL],
                max_size=None,
                compression=None,
            )

        async with tab_opened() as tab:
            await kernel.run("'the tab is told this'")
            while b"told this" not in str(await tab.recv()).encode():
                pass
            await asyncio.sleep(0.5)  # it says how far it is with a pong
        with terminal.step(f"sessionkeeper: {REPLAYED} messages for a tab that is away"):
            await kernel.run(_MANY, 300.0)
        await system.rest()
        began = time.perf_counter()
        expected = 0
        async with tab_opened() as tab:
            while expected < REPLAYED:
                async with asyncio.timeout(_LONG_SILENT):
                    received = decode(await tab.recv(), binary=True)
                _, content = received.open()
                if "name" not in content:
                    continue
                for line in content["text"].split():
                    if int(line) != expected:
                        raise RunFailed(f"{line} came where {expected} was to come")
                    expected += 1
    taken = time.perf_counter() - began
    terminal.say(f"  {taken:.2f} s")
    return taken


async def _open_lab(stack: Stack) -> None:
    """Have JupyterLab's page served, and what it asks first."""

    for path in ("/lab", "/lab/api/settings", "/api/contents", "/api/kernelspecs", "/api/sessions"):
        await asyncio.to_thread(stack.server.fetch, "GET", path)


async def _ui_resident(system: System) -> float:
    await _open_lab(system)
    await system.rest()
    [pid] = [pid for pid, part in processes.parts(system.state.id).items() if part == "ui"]
    return resident_mb(pid)


# -- links as kernels ------------------------------------------------------------------------------


async def _under_load(terminal: Terminal, rig: Rig, figures: dict[str, Figure]) -> None:
    steps = (
        (f"{IDLE} idle kernels", _idle, ("idle400_rss_mb", "idle400_cpu_percent")),
        (f"{RATE:.0f} messages per second", _fan_in, ("fanin_lost", "fanin_p99_ms")),
        ("the gateway is killed meanwhile", _restart, ("gateway_restart_s",)),
    )
    for title, step, names in steps:
        failures: list[str] = []
        found: tuple[float | None, ...] = (None,) * len(names)
        with terminal.step(title):
            try:
                found = await step(rig)
            except RunFailed as error:
                failures = [str(error)]
        for name, value in zip(names, found, strict=True):
            figures[name] = Figure(name, [value], failures=failures, must=REQUIRED.get(name))
        terminal.say(f"  {failures or dict(zip(names, found, strict=True))}")


async def _idle(rig: Rig) -> tuple[float, ...]:
    """Resident memory, 10**6 bytes, and CPU, percent of a core, of the gateway."""
    await rig.grow(IDLE)
    await asyncio.sleep(_SETTLED)
    before = rig.cpu_seconds()
    await asyncio.sleep(_WATCHED)
    return resident_mb(rig.pid), (rig.cpu_seconds() - before) / _WATCHED * 100


async def _fan_in(rig: Rig) -> tuple[float, ...]:
    """Messages that did not come, and the 99th percentile of the milliseconds that one took."""
    await rig.shrink(BUSY)
    counted(rig.readers)
    await rig.say(RATE)
    await asyncio.sleep(FOR)
    await rig.all_here(await rig.say(0))
    seen = counted(rig.readers)
    if seen.twice:
        raise RunFailed(f"{seen.twice} messages came twice")
    return seen.lost, percentile(seen.delays, 99)


async def _restart(rig: Rig) -> tuple[float, ...]:
    """Seconds from SIGKILL until every client has had something that was said after it."""
    await rig.say(RATE)
    await asyncio.sleep(_FLOWING)
    counted(rig.readers)
    await rig.kill_gateway()
    began = time.monotonic()
    said = await rig.say(RATE)
    await rig.start_gateway()
    for reader in rig.readers:
        await reader.until(said[reader.kernel_id] + 1)
    taken = time.monotonic() - began
    await rig.all_here(await rig.say(0))
    seen = counted(rig.readers)
    if seen.lost or seen.twice:
        raise RunFailed(f"{seen.lost} messages were lost, {seen.twice} came twice")
    return (taken,)
