"""What `sessionkeeper up` says to the person who typed it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

__all__ = ["Terminal"]


def _program() -> str:
    """How this user can call sessionkeeper: by name where that is found, else by path."""
    script = Path(sys.executable).parent / "sessionkeeper"
    if shutil.which("sessionkeeper"):
        return "sessionkeeper"
    if script.exists():
        return os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)
    return f"{sys.executable} -m sessionkeeper"


class Terminal:
    """Progress lines on standard error: with a spinner on a terminal, plain elsewhere. The one
    thing on standard output is the URL."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line. The terminal may be gone; that ends nothing."""
        with suppress(OSError):
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
        self.say(f"✓ {text}")

    def ready(self, heading: str, url: str, nodes: list[str], state: Path | None) -> None:
        """Everything runs: where to go, and what to try."""
        name, flag = _program(), f" --state {shlex.quote(str(state))}" if state else ""
        tries = {
            "notice: a node goes in 5 seconds": f"node drain {nodes[0]} --deadline 5s",
            "no notice: its plug is pulled": f"node kill {nodes[0]}",
            "it comes back": "node start",
            "where is the session?": "status",
        }
        self.say(f"\n{heading}\n")
        print(f"  {url}", flush=True)
        self.say("\nRun a cell there, and meanwhile, in another terminal:\n")
        for meaning, command in tries.items():
            self.say(f"  {meaning:<34}{name} {command}{flag}")
        self.say("\nCtrl-C stops everything; the session is kept and comes back with the next up.")
