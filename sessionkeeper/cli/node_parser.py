"""What can be typed after `sessionkeeper node`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_EPILOG = """\
At the gateway:
  sessionkeeper node list
  sessionkeeper node drain node-1 --deadline 30s
  sessionkeeper node kill node-2
  sessionkeeper node start node-2
  sessionkeeper node token create --tier volunteer
  sessionkeeper node cordon home-pc        nothing new goes there
  sessionkeeper node revoke home-pc        it is not let in any more

On the machine that is to be a node:
  sessionkeeper node join https://gateway.example --token TOKEN
  sessionkeeper node leave

exit codes:
  1 not all has moved   2 that cannot be asked   7 no such node   9 nothing runs here
  17 the gateway does not let it in   69 the gateway does not answer
"""

_JOIN = """\
Offers this machine to a gateway, in the foreground. It dials out, to the gateway's port alone, and
takes the way of HTTPS_PROXY. It needs no root; with root and CRIU, kernels run in containers and
move in the middle of a cell. The key that is made here stays here.

Ctrl-C is a notice: what runs here moves first; a second one ends it at once. Without --token it
goes on with what it joined before.

examples:
  sessionkeeper node join https://gateway.example --token TOKEN
  sessionkeeper node join https://gateway.example --token TOKEN --cores 2 --memory 4G --when night
  sessionkeeper node join https://gateway.example --token TOKEN --systemd-unit
  SSL_CERT_FILE=ca.pem sessionkeeper node join https://10.0.0.7:8889 --token TOKEN

exit codes:
  2 that cannot be   10 the runtime does not work here   17 the gateway does not let it in
  69 the gateway does not answer
"""

_JOIN_FLAGS = {
    "--token": ("TOKEN", "from `node token create`, at the gateway; used up by this"),
    "--token-file": ("FILE", "a file that has it (or SESSIONKEEPER_JOIN_TOKEN)"),
    "--name": ("NAME", "what it is called there (its host name)"),
    "--tier": (
        "TIER",
        "spot, volunteer or on-demand, as far as the token goes (that of the token)",
    ),
    "--cores": ("N", "cores that sessions may use (all)"),
    "--memory": ("SIZE", "memory that sessions may use (all)"),
    "--hours": ("SPAN", "offer it from 22:00-07:00, say (always)"),
    "--when": ("WHEN", "offer it only plugged-in, away, night; several with commas (always)"),
    "--runtime": ("R", "auto, container or process (auto: see `sessionkeeper doctor`)"),
    "--notices": ("NAMES", "who says that it will go: auto, none, aws,logind,... (auto)"),
    "--grace": ("TIME", "time to move away what runs here when it is stopped (30s)"),
    "--dir": ("DIR", "where its key is, and what kernels need (root: /var/lib/sessionkeeper/node)"),
    "--log-level": ("LEVEL", "debug, info, warning or error (info)"),
}


def add_node(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `node` and its actions to the commands; `add` and `add_state` are the parser's."""
    node = add(commands, "node", "list, drain, join, revoke nodes", epilog=_EPILOG)
    node.set_defaults(shown=node)
    actions = node.add_subparsers(title="actions", metavar="ACTION")

    def action(name: str, text: str, run: str, *, named: bool = True) -> argparse.ArgumentParser:
        parser = add(actions, name, text, f"node:{run}")
        if named:
            parser.add_argument("name", metavar="NAME")
        add_state(parser)
        return parser

    parser = action("list", "the nodes, as the gateway sees them", "list_nodes", named=False)
    parser.add_argument("--json", action="store_true", help="as the gateway says it")
    parser = action("drain", "the notice before a node goes: what runs on it moves", "drain")
    parser.add_argument("--deadline", metavar="TIME", default="30s", help="time there is (30s)")
    action("kill", "pull the plug: all of it dies at once, its data is gone", "kill")
    text = "start a killed node, take back a drained one, or add one"
    parser = action("start", text, "start", named=False)
    parser.add_argument("name", metavar="NAME", nargs="?", help="the first free name when absent")
    parser.add_argument("--runtime", metavar="R", help="container or process (that of the others)")
    for flag, metavar, text in (
        ("--cpu-most", "LEVEL", "treat its CPU as one of that level (native)"),
        ("--tier", "TIER", "what it claims to be (that of the others)"),
        ("--price", "P", "what it costs per hour (that of the others)"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    action("cordon", "place nothing new there; what is there stays", "cordon")
    action("uncordon", "take that, or a drain, back", "uncordon")
    action("revoke", "do not let it in any more; what runs there goes elsewhere", "revoke")
    _add_token(actions, add, add_state)
    _add_joining(actions, add)


def _add_token(
    actions: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    token = add(actions, "token", "tokens with which machines join")
    token.set_defaults(shown=token)
    inner = token.add_subparsers(title="actions", metavar="ACTION")
    parser = add(inner, "create", "make one; it is shown once", "node:create_token")
    help_ = "what machines that join with it are taken for, at most (volunteer)"
    parser.add_argument("--tier", metavar="TIER", default="volunteer", help=help_)
    help_ = "machines that may join with it (1)"
    parser.add_argument("--uses", metavar="N", type=int, default=1, help=help_)
    help_ = "how long it is good (1h)"
    parser.add_argument("--expires", metavar="TIME", default="1h", help=help_)
    parser.add_argument("--json", action="store_true", help="for programs")
    add_state(parser)
    parser = add(inner, "list", "those that are good now, without themselves", "node:list_tokens")
    parser.add_argument("--json", action="store_true", help="for programs")
    add_state(parser)
    parser = add(inner, "withdraw", "it lets nobody in any more", "node:withdraw_token")
    parser.add_argument("id", metavar="ID", help="as `node token list` has it")
    add_state(parser)


def _add_joining(actions: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    text = "offer this machine to a gateway"
    parser = add(actions, "join", text, "join:join", _JOIN)
    help_ = "the gateway's; that of the last time when absent"
    parser.add_argument("url", metavar="URL", nargs="?", help=help_)
    for flag, (metavar, help_) in _JOIN_FLAGS.items():
        parser.add_argument(flag, metavar=metavar, help=help_)
    help_ = "allow a gateway with http://, on a network that is yours"
    parser.add_argument("--without-tls", action="store_true", help=help_)
    parser.add_argument(
        "--systemd-unit",
        metavar="FILE",
        nargs="?",
        const="",
        help="join, write a unit that keeps it joined (- prints it), and end; no root: a user unit",
    )
    parser = add(actions, "leave", "offer this machine no more; what runs here moves", "join:leave")
    parser.add_argument("--dir", metavar="DIR", help="as of `node join`")
