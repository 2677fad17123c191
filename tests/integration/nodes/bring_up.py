"""`sessionkeeper up` with stand-ins: `bring_up.py RUNTIME [flags of up]`."""

from __future__ import annotations

import sys
from pathlib import Path

from sessionkeeper.cli.parser import parse
from sessionkeeper.errors import SessionkeeperError, explain
from sessionkeeper.settings import UpSettings, load
from sessionkeeper.up.commands import Commands
from sessionkeeper.up.start import bring_up

STAND_IN = str(Path(__file__).parent / "stand_in.py")


def command(role: str) -> tuple[str, ...]:
    return (sys.executable, STAND_IN, role)


if __name__ == "__main__":
    settings = load(UpSettings, vars(parse(["up", *sys.argv[2:]])))
    commands = Commands(command("gateway"), command("ui"), command("agent"))
    try:
        bring_up(settings, runtime=sys.argv[1], commands=commands)
    except SessionkeeperError as error:
        print(explain(error), file=sys.stderr)
        sys.exit(error.exit_code)
