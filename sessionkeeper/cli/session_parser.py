"""What can be typed after `sessionkeeper session`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_EPILOG = """\
Sessions beside the one that `up` was started with. They share the nodes, and nothing else.

examples:
  sessionkeeper session create course --owner ann --guarantee 450M --limit 2G
  sessionkeeper session open course          a JupyterLab for it; prints the URL
  sessionkeeper session why course           where it runs, or what it waits for
  sessionkeeper session hibernate course     saved, and its compute released
  sessionkeeper session export course        its files and a report of its variables

A stock Jupyter server works with a session too: `sessionkeeper session token course` says how.

exit codes:
  1 not done, the words say why   2 that cannot be asked, or the file exists
  8 no such session   9 nothing runs here   11 the disk is full
  69 the gateway does not answer, or stopped in the middle
"""

_CREATE = """\
The session begins empty and takes no compute before its first kernel. A node has room for it when
it has the guaranteed memory left; it waits in a line, in order, while none has.
"""

_HIBERNATE = """\
A last checkpoint, in the middle of a cell if need be; then its compute is released. The next cell
that is run, kernel that is started, page that is opened or `session resume` brings it back.
"""


_EXPORT = """\
A session that runs is saved first. One that hibernates, or that only the store has, needs no
compute for it, and stays as it is; of its variables the report has what was noted when it went to
sleep. A tar.gz keeps links and permissions; a zip has no hard links. FILE is there when all of it
is: what was interrupted leaves nothing.
"""


def add_session(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `session` and its actions to the commands; `add` and `add_state` are the parser's."""
    text = "begin, list, open, hibernate, resume, explain, export or delete sessions"
    group = add(commands, "session", text, epilog=_EPILOG)
    group.set_defaults(shown=group)
    actions = group.add_subparsers(title="actions", metavar="ACTION")

    def action(
        name: str, text: str, run: str, epilog: str = "", *, named: bool = True
    ) -> argparse.ArgumentParser:
        parser = add(actions, name, text, f"session:{run}", epilog)
        if named:
            parser.add_argument("name", metavar="NAME")
        parser.add_argument("--json", action="store_true", help="as the gateway says it")
        add_state(parser)
        return parser

    parser = action("create", "begin a session", "create", _CREATE, named=False)
    parser.add_argument("name", metavar="NAME", nargs="?", help="one is made up when absent")
    for flag, metavar, help_ in (
        ("--owner", "WHO", "whose it is: where nodes are short, owners take turns"),
        (
            "--image",
            "IMAGE",
            "what its kernels run in: NAME:TAG kept here, or HOST/NAME:TAG",
        ),
        ("--tiers", "TIERS", "nodes it may use: some of spot,volunteer,on-demand (all)"),
        ("--guarantee", "SIZE", "memory that a node must have left for it (none)"),
        ("--limit", "SIZE", "memory that its kernels may use (the node's own limit)"),
    ):
        parser.add_argument(flag, metavar=metavar, help=help_)
    help_ = "cores that a node must have left for it (none)"
    parser.add_argument("--cores", metavar="N", type=float, help=help_)
    help_ = "it has secrets: no volunteer's machine, unless --tiers names them"
    parser.add_argument("--secrets", action="store_true", default=None, help=help_)
    action("list", "all sessions, those that only the store has too", "list_sessions", named=False)
    action("open", "start a JupyterLab for it, and print the URL", "open_ui")
    action("token", "its token, and how a stock Jupyter server uses it", "token")
    action("hibernate", "save it and release its compute", "hibernate", _HIBERNATE)
    action("resume", "have it run again, or have it here if only the store has it", "resume")
    action("why", "where it runs and why there, or what it waits for", "why")
    text = "its files, and a report of its variables, as one archive"
    parser = action("export", text, "export", _EXPORT)
    help_ = "where to; `-` is standard output (NAME.tar.gz)"
    parser.add_argument("--output", metavar="FILE", help=help_)
    help_ = "tar.gz or zip (as FILE ends, else tar.gz)"
    parser.add_argument("--format", choices=["tar.gz", "zip"], help=help_)
    help_ = "as the newest checkpoint has it: none is made for this"
    parser.add_argument("--saved", action="store_true", help=help_)
    help_ = "replace FILE if there is one"
    parser.add_argument("--force", action="store_true", help=help_)
    parser = action("delete", "delete it with all of its checkpoints, for good", "delete")
    parser.add_argument("--yes", action="store_true", help="do not ask")
