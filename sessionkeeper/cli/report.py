"""`sessionkeeper report`: what sessions cost."""

from __future__ import annotations

import csv
import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from sessionkeeper.bill import COLUMNS, HOUR, SUMMED, Row, by, row_of
from sessionkeeper.chart import bars
from sessionkeeper.cli import api
from sessionkeeper.cli.running import state_of
from sessionkeeper.errors import UsageError

__all__ = ["plot", "report", "write_text"]


def report(arguments: Namespace) -> int:
    """Print it; with `--plot` also draw it, per day."""
    asked = {
        "from": arguments.since,
        "to": arguments.until,
        "session": arguments.session,
        "owner": arguments.owner,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    rows = [row_of(one) for one in api.report(state_of(arguments), asked)]
    if arguments.plot:
        try:
            Path(arguments.plot).write_text(plot(rows))
        except OSError as error:
            raise UsageError(f"--plot: {arguments.plot} cannot be written: {error}") from None
    if arguments.format == "json":
        total = {name: sum(getattr(row, name) for row in rows) for name in SUMMED}
        print(json.dumps({"rows": [row.json() for row in rows], "total": total}, indent=1))
    elif arguments.format == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.json() for row in rows)
    else:
        write_text(rows, arguments.by, sys.stdout)
    return 0


def write_text(rows: list[Row], what: str, out: TextIO) -> None:
    """A line for each session (or owner, node, tier, day), and one for all."""
    if not rows:
        print("nothing has run", file=out)
        return
    head = f"{what.upper():<24} {'HOURS':>9} {'PAID':>10} {'ON DEMAND':>10} {'SAVED':>6}"
    print(f"{head} {'LOSSES':>6} {'LOST S':>8} {'AGAIN S':>8}", file=out)
    for name, row in by(what, rows).items():
        print(_line(name or "-", row), file=out)
    (total,) = by("day", [replace(row, day="") for row in rows]).values()
    print(_line("all", total), file=out)
    if assumed := sorted({row.node for row in rows if row.assumed}):
        print(
            f"\nNobody said what these cost; the usual price is taken: {', '.join(assumed)}",
            file=out,
        )
        print("`sessionkeeper up --price`, `sessionkeeper agent --price` say it.", file=out)


def plot(rows: list[Row]) -> str:
    """What was paid, and what on-demand would have cost, per day: SVG."""
    days = by("day", rows)
    return bars(
        "What sessions cost per day",
        "",
        list(days),
        {
            "paid": [row.paid for row in days.values()],
            "on demand": [row.on_demand for row in days.values()],
        },
    )


def _line(name: str, row: Row) -> str:
    saved = f"{100 * (1 - row.paid / row.on_demand):.0f} %" if row.on_demand else "-"
    return (
        f"{name:<24} {row.seconds / HOUR:>9.2f} {row.paid:>10.4f} {row.on_demand:>10.4f}"
        f" {saved:>6} {row.recoveries:>6} {row.lost:>8.1f} {row.repeated:>8.1f}"
    )
