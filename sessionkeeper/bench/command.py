"""The command line of `sessionkeeper bench`."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import tempfile
from pathlib import Path

from rich.console import Console

from sessionkeeper.bench import (
    checkpoint,
    cluster,
    gateway,
    hub,
    latency,
    launch,
    machine,
    months,
    nodes,
    recovery,
    report,
    start,
)
from sessionkeeper.bench.figures import Figure
from sessionkeeper.errors import DiskFull
from sessionkeeper.up.terminal import Terminal

__all__ = ["main"]

_BENCHES = ("month", "latency", "start", "recovery", "checkpoint", "gateway", "nodes", "launch")
_ROOM = 8
"""Times what a kernel holds: on two nodes, restored files and image files beside the store."""

_EPILOG = """\
Each starts a sessionkeeper of its own (`checkpoint`: one node and a store; `month` simulates, and
starts nothing) in a temporary directory (TMPDIR) and leaves nothing behind.
Root and CRIU are needed for the container runtime, which the required figures are for. Let the
machine do nothing else meanwhile.

exit codes: 1 a run failed   130 interrupted; figures that fall short are no error
"""


def main(arguments: list[str]) -> int:
    """Measure and print; the exit code. Raises StackFailed, DiskFull."""
    found = _parsed(arguments)
    terminal = Terminal()
    facts = machine.describe()
    if facts["busy"]:
        terminal.say(
            f"The machine is busy (load {facts['load']} on {facts['cores']} cores):"
            " the figures will be worse than they could be."
        )
    benches = _BENCHES if found.bench == "all" else (found.bench,)
    if "recovery" in benches:
        _require_room(_ROOM * max(found.sizes) * recovery.MB)
    if "checkpoint" in benches:
        _require_room(checkpoint.ROOM)
    figures, facts["runtime"] = asyncio.run(_interruptible(terminal, benches, found))
    if found.json:
        print(report.as_json(found.bench, facts, figures))
    else:
        report.print_table(facts, figures, Console())
    return 1 if any(figure.failures for figure in figures) else 0


async def _interruptible(
    terminal: Terminal, benches: tuple[str, ...], found: argparse.Namespace
) -> tuple[list[Figure], str]:
    """Measure; the first Ctrl-C or SIGTERM ends that in order, more of them change nothing."""
    measuring = asyncio.create_task(_measure(terminal, benches, found))
    loop = asyncio.get_running_loop()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            measuring.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        return await measuring
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _measure(
    terminal: Terminal, benches: tuple[str, ...], found: argparse.Namespace
) -> tuple[list[Figure], str]:
    figures: list[Figure] = []
    runtime = ""
    for bench in benches:
        match bench:
            case "month":
                plot = Path(found.plot) if found.plot else None
                measured = await asyncio.to_thread(months.measure, terminal, found.runs, plot)
            case "latency":
                measured, runtime = await latency.measure(terminal, found.runs)
            case "start":
                measured, runtime = await start.measure(terminal, found.runs)
            case "checkpoint":
                measured, runtime = await checkpoint.measure(terminal, found.runs)
            case "gateway":
                measured, runtime = await gateway.measure(terminal, found.runs)
            case "nodes":
                measured, runtime = await nodes.measure(terminal, found.runs)
            case "launch":
                measured, runtime = await launch.measure(terminal, found.runs)
                measured += await hub.measure(terminal, found.runs)
                measured += await cluster.measure(terminal, found.runs)
            case _:
                measured, runtime = await recovery.measure(terminal, found.sizes, found.runs)
        figures += measured
    return figures, runtime


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sessionkeeper bench",
        description="Measure, beside what else there is, on the same machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bench", choices=[*_BENCHES, "all"], help="what to measure")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--runs", type=_positive, default=10, metavar="N", help="of each (10)")
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=[50, 240, 1000],
        metavar="MB,...",
        help="what the kernels of `recovery` hold (50,240,1000)",
    )
    help_ = "draw what `month` simulates, as SVG"
    parser.add_argument("--plot", metavar="FILE", help=help_)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _sizes(text: str) -> list[int]:
    return [_positive(word.strip()) for word in text.split(",")]


def _require_room(needed: int) -> None:
    directory = tempfile.gettempdir()
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DiskFull(
            f"{directory} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed",
            hint="set TMPDIR to a directory with more room, or give smaller --sizes",
        )
