"""`chart_s` and `leftovers`: what is installed in a cluster, and what is left of sessions there."""

from __future__ import annotations

import asyncio

from sessionkeeper.bench.chart import chart_seconds
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.leftovers import SESSIONS, local_leftovers
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]


async def measure(terminal: Terminal, runs: int) -> list[Figure]:
    """Both figures. Of the sessions all are in one run, another seed in each; processes of this
    machine stand for their pods.
    """
    chart, left = (Figure(name, must=REQUIRED[name]) for name in ("chart_s", "leftovers"))
    for number in range(runs):
        with terminal.step(f"{chart.name}, {number + 1}/{runs}"):
            try:
                chart.runs.append(await asyncio.to_thread(chart_seconds))
            except SessionkeeperError as error:
                chart.runs.append(None)
                chart.failures.append(f"run {number + 1}: {error}")
        with terminal.step(f"{left.name} of {SESSIONS} sessions, {number + 1}/{runs}"):
            try:
                left.runs.append(float(await local_leftovers(seed=number)))
            except SessionkeeperError as error:
                left.runs.append(None)
                left.failures.append(f"run {number + 1}: {error}")
    return [chart, left]
