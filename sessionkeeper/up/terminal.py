"""What `sessionkeeper up` says to the person who typed it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

__all__ = ["Terminal", "program"]


def program(state: Path | None = None) -> tuple[str, str]:
    """How this user calls sessionkeeper, and the flag that names a state directory (or nothing
    for the default, None)."""
    name = "sessionkeeper"
    script = Path(sys.argv[0])
    if shutil.which(name) is None:
        name = f"{sys.executable} -m sessionkeeper"
        if script.name == "sessionkeeper":
            name = os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)
    return name, f" --state {state}" if state else ""


class Terminal:
    """Progress lines on standard error: with a spinner on a terminal, plain elsewhere. The one
    thing on standard output is the URL."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """While something takes time."""
        if not self._console.is_terminal:
            self.say(f"{text} ...")
            yield
            return
        with self._console.status(text):
            yield
        self._console.print(f"[green]✓[/green] {text}")

    def ready(self, url: str, nodes: list[str], state: Path | None) -> None:
        """Everything runs: where to go, and what to try."""
        name, flag = program(state)
        first = nodes[0]
        tries = {
            f"{name} node drain {first} --deadline 5s{flag}": "notice: the node goes in 5 seconds",
            f"{name} node kill {first}{flag}": "no notice: its plug is pulled",
            f"{name} node start{flag}": "a node comes (back)",
            f"{name} status{flag}": "where the session is, how old its checkpoint",
        }
        width = max(map(len, tries))
        self.say("\nOpen this in a browser:\n")
        print(f"  {url}", flush=True)
        self.say("\nRun a cell, then, in another terminal:\n")
        for command, meaning in tries.items():
            self.say(f"  {command:<{width}}  {meaning}")
        self.say("\nCtrl-C stops everything; the session is kept and comes back with the next up.")
