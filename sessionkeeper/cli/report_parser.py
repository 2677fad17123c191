"""What can be typed after `sessionkeeper report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_EPILOG = """\
Every second of a session is charged to the node that it is on: with the node's price (`--price`),
shared in equal parts by the sessions there. SAVED is what that is below the list price of the same
machines on demand. LOST S: seconds in which sessions stood still after a loss; AGAIN S: seconds of
work done again. csv and json have a row per day, session and node.

examples:
  sessionkeeper report
  sessionkeeper report --from 2026-11-01 --to 2026-11-30 --by owner
  sessionkeeper report --format csv --plot november.svg > november.csv

exit codes:
  2 that cannot be asked   9 nothing runs here   69 the gateway does not answer
"""


def add_report(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `report` to the commands; `add` and `add_state` are the parser's."""
    parser = add(commands, "report", "what sessions cost, and would have", "report:report", _EPILOG)
    for flag, name, metavar, text in (
        ("--from", "since", "DAY", "from this day on, such as 2026-11-01 (UTC)"),
        ("--to", "until", "DAY", "up to this day"),
        ("--session", "session", "NAME", "of this session (all)"),
        ("--owner", "owner", "WHO", "of this owner's sessions (everybody's)"),
        ("--plot", "plot", "FILE", "draw it as well, per day, as SVG"),
    ):
        parser.add_argument(flag, dest=name, metavar=metavar, help=text)
    parser.add_argument("--format", choices=["text", "csv", "json"], default="text", help="(text)")
    groups = ["session", "owner", "node", "tier", "day"]
    parser.add_argument("--by", choices=groups, default="session", help="a line each (session)")
    add_state(parser)
