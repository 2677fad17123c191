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

A stock Jupyter server works with a session too: `sessionkeeper session token course` says how.

exit codes:
  1 not done, the words say why   2 that cannot be asked   8 no such session
  9 nothing runs here   69 the gateway does not answer
"""

_CREATE = """\
The session begins empty and takes no compute before its first kernel. A node has room for it when
it has the guaranteed memory left; it waits in a line, in order, while none has.
"""

_HIBERNATE = """\
A last checkpoint, in the middle of a cell if need be; then its compute is released. The next cell
that is run, kernel that is started, page that is opened or `session resume` brings it back.
"""


def add_session(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `session` and its actions to the commands; `add` and `add_state` are the parser's."""
    text = "begin, list, open, hibernate, resume, explain or delete sessions"
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
    parser = action("delete", "delete it with all of its checkpoints, for good", "delete")
    parser.add_argument("--yes", action="store_true", help="do not ask")
