"""`bench month`: figures and a picture of simulated months."""

from __future__ import annotations

from pathlib import Path

from sessionkeeper.bench.figures import Figure
from sessionkeeper.bench.month import AUTO, FIXED, SESSIONS, Result, simulate
from sessionkeeper.chart import bars
from sessionkeeper.rates import HOUR
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure", "picture"]

PERMILLE = 1000.0


def measure(terminal: Terminal, runs: int, plot: Path | None = None) -> list[Figure]:
    """Simulate so many months, of the seeds 1, 2, ...; what each policy loses of them, in hours.

    Required of `auto` is what the best of the others reaches. The picture is that of the first.
    """
    months: list[dict[str, Result]] = []
    for seed in range(1, runs + 1):
        with terminal.step(f"simulating a month of {SESSIONS} sessions, seed {seed} of {runs}"):
            months.append(simulate(seed))
    if plot is not None:
        plot.write_text(picture(months[0]))
    figures = [
        Figure(f"month_{name.replace(' ', '')}_lost_h", [m[name].lost / HOUR for m in months])
        for name in (AUTO, *FIXED)
    ]
    auto, *others = figures
    auto.must = min(figure.value for figure in others if figure.value is not None)
    return figures


def picture(month: dict[str, Result]) -> str:
    """What is lost with each policy, per thousand of the work: SVG."""
    return bars(
        "Work lost in a month of spot nodes, per thousand",
        "‰",
        list(month),
        {
            "repeated after losses": [PERMILLE * r.repeated / r.work for r in month.values()],
            "standing still for checkpoints": [PERMILLE * r.stood / r.work for r in month.values()],
            "together": [PERMILLE * r.lost / r.work for r in month.values()],
        },
    )


def table(month: dict[str, Result]) -> str:
    """The same as a table, in Markdown."""
    lines = [
        "| interval | repeated h | standing still h | lost h | of the work | checkpoints |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in month.items():
        lines.append(
            f"| {name} | {r.repeated / HOUR:.1f} | {r.stood / HOUR:.1f} | {r.lost / HOUR:.1f}"
            f" | {PERMILLE * r.lost / r.work:.2f} ‰ | {r.checkpoints:,} |"
        )
    return "\n".join(lines)
