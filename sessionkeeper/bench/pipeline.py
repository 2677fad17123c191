"""`bench launch`: the whole pipeline, from the click on a link to what its end leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sessionkeeper.bench import chart, hub, launch, leftovers
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """`launch_s`, `hub_back_s`, `chart_s`, `leftovers`, and the runtime that was used. What cannot
    be measured here, as its tools are missing, has failed and says why.
    """
    figures, runtime = await launch.measure(terminal, runs)
    figures += await hub.measure(terminal, runs)
    figures.append(await _repeated(terminal, "chart_s", runs, _chart))
    figures.append(await _repeated(terminal, "leftovers", 1, _leftovers))
    return figures, runtime


async def _chart() -> float:
    return await asyncio.to_thread(chart.chart_seconds)


async def _leftovers() -> float:
    return float(await leftovers.local_leftovers())


async def _repeated(
    terminal: Terminal, name: str, runs: int, one: Callable[[], Awaitable[float]]
) -> Figure:
    figure = Figure(name, must=REQUIRED[name])
    for number in range(1, runs + 1):
        taken = None
        try:
            with terminal.step(f"{name}, {number}/{runs}"):
                taken = await one()
        except (SessionkeeperError, OSError) as error:
            figure.failures.append(f"run {number}: {error}")
        figure.runs.append(taken)
    return figure
