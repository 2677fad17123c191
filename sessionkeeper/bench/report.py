"""What a benchmark prints: one JSON object, or a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sessionkeeper.bench.figures import Figure

__all__ = ["as_json", "print_table"]


def as_json(bench: str, machine: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """One object on one line."""
    figures_json = [figure.json() for figure in figures]
    return json.dumps({"bench": bench, "machine": machine, "figures": figures_json})


def print_table(machine: Mapping[str, Any], figures: Sequence[Figure], console: Console) -> None:
    """Each figure with the required one beside it, the range of its runs, and its peers."""
    peers = list(dict.fromkeys(name for figure in figures for name in figure.peers))
    # The unit is in a figure's name; the table has room in 80 columns.
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("figure", no_wrap=True)
    for heading in ("median", "must", "", "range", "runs"):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for name in peers:
        table.add_column(name.removeprefix("jupyter-").replace("-", "\n"), justify="right")
    for figure in figures:
        good = [run for run in figure.runs if run is not None]
        verdict = figure.verdict
        colour = {"ok": "green", "short": "red"}.get(verdict, "")
        table.add_row(
            figure.name,
            _shown(figure.value),
            _shown(figure.must) if figure.must is not None else "",
            f"[{colour}]{verdict}[/]" if colour else "",
            f"{min(good):.3g}-{max(good):.3g}" if good else "-",
            f"{len(good)}/{len(figure.runs)}",
            *(_peer(figure, name) for name in peers),
        )
    console.print(table)
    for figure in figures:
        for failure in figure.failures:
            console.print(f"{figure.name}: {failure}", markup=False, style="red")
    console.print(_machine_line(machine), markup=False, highlight=False, style="dim")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _peer(figure: Figure, name: str) -> str:
    if name not in figure.peers:
        return ""
    value = figure.peers[name]
    return "cannot" if value is None else f"{value:.3g}"


def _machine_line(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB,"
        f" Linux {machine['kernel']}, load {machine['load']:.2f},"
        f" {machine['runtime'] or 'no'} runtime"
    )
