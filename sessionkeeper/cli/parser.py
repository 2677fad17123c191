"""What can be typed, and its help."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.options import FLAGS
from sessionkeeper.cli.launch_parser import add_launch
from sessionkeeper.cli.node_parser import add_node
from sessionkeeper.cli.report_parser import add_report
from sessionkeeper.cli.session_parser import add_session
from sessionkeeper.cli.store_parser import add_store

__all__ = ["parse"]

_TOP = """\
Notebook sessions that outlive the node they run on.

  sessionkeeper up                                start JupyterLab, a gateway and two nodes here
  sessionkeeper status                            where the session is, how old its checkpoint
  sessionkeeper node drain node-1 --deadline 5s   a node will go in 5 seconds: the session moves
  sessionkeeper node kill node-1                  a node is gone without a word
  sessionkeeper session create NAME               one more session, beside the first one
  sessionkeeper launch URL|PATH                   a session in a repository's own environment
  sessionkeeper checkpoint restore 12             go back to what was then
  sessionkeeper store list                        sessions and checkpoints that are kept
  sessionkeeper doctor                            what this machine can do, and what it lacks

`sessionkeeper COMMAND --help` explains a command.
"""

_SOURCES = """\
Every setting can also come from the environment (SESSIONKEEPER_PORT=9000) or from a TOML file
given with --config; a flag beats the environment, which beats the file.

"""

_UP = (
    _SOURCES
    + """\
examples:
  sessionkeeper up
  sessionkeeper up --nodes 3 --lease-seconds 5s --workspace ./course
  sessionkeeper up --state /srv/lab --store /mnt/backup/sessions --port 9000
  sessionkeeper up --runtime process     without root and CRIU: variables are kept, processes not

exit codes:
  2 a setting that cannot be   3 already running   4 port taken   5 store unusable
  6 CRIU missing or too old   10 the runtime does not work here   11 disk full
  69 a part did not come up
"""
)

_CHECKPOINT = """\
Of the session that runs. `sessionkeeper store` works on the store itself, whether anything runs.

examples:
  sessionkeeper checkpoint list
  sessionkeeper checkpoint tag before-upgrade
  sessionkeeper checkpoint restore before-upgrade
  sessionkeeper checkpoint fork 12 --as experiment

exit codes:
  1 not done, the words say why   2 that cannot be asked   8 no such checkpoint or tag
  9 nothing runs here   69 the gateway does not answer
"""

_RESTORE = """\
Kernels and files are as they were then; what notebooks show stays. What is now is saved first, as a
checkpoint with the tag before-going-back-NUMBER, to which one can go back just so. Cells that run,
or wait, are answered with an error. Kernels that are younger than the checkpoint start anew.
"""

_FORK = """\
The new session shares what is stored, and nothing else: neither notices what the other does. It is
run like any other, with `sessionkeeper up --session NAME`.
"""

_INTERNAL = """\
`sessionkeeper up` starts this for you. Start it yourself to run the parts on machines of their own.

"""

Parser = argparse.ArgumentParser
_CLI = "sessionkeeper.cli"


def parse(words: list[str]) -> argparse.Namespace:
    """What was typed. `run` names the function of the command. Exits with 2 for what it cannot
    understand, with 0 after `--help`."""
    parser = _parser()
    stock: list[str] = []
    if words[:1] == ["gateway"]:
        stock = [word for word in words if word.startswith(FLAGS)]
        words = [word for word in words if word not in stock]
    found = parser.parse_args(words)
    found.stock = stock
    if not hasattr(found, "run"):
        shown: Parser = getattr(found, "shown", parser)
        shown.print_help()
        parser.exit(0 if not words else 2)
    return found


def _parser() -> Parser:
    parser = Parser(
        prog="sessionkeeper",
        description=_TOP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print it")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_up(commands)
    _add_operating(commands)
    add_node(commands, _add, _add_state)
    add_report(commands, _add, _add_state)
    add_launch(commands, _add, _add_state)
    add_session(commands, _add, _add_state)
    _add_checkpoint(commands)
    add_store(commands, _add)
    _add_machine(commands)
    _add_parts(commands)
    return parser


class _Version(argparse.Action):
    """Found out when asked: it takes a while."""

    def __call__(self, parser: Parser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        print(f"sessionkeeper {version('sessionkeeper')}")
        parser.exit()


def _add(commands: Any, name: str, help_: str, run: str | None = None, epilog: str = "") -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=help_,
        description=help_[:1].upper() + help_[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if run:
        parser.set_defaults(run=f"{_CLI}.{run}")
    return parser


def _add_state(parser: Parser) -> None:
    parser.add_argument("--state", metavar="DIR", help="state directory of the `up` that is meant")


def _add_session(parser: Parser) -> None:
    help_ = "the session that is meant (that of `up --session`)"
    parser.add_argument("--session", metavar="NAME", help=help_)


def _flags(parser: Parser, texts: dict[str, tuple[str, str]]) -> None:
    for flag, (metavar, text) in (texts | _LOG_FLAGS).items():
        parser.add_argument(flag, metavar=metavar, help=text)


_LOG_FLAGS = {
    "--log-format": ("FORM", "text or json: lines of one field set (text)"),
    "--log-level": ("LEVEL", "debug (each message's way, too), info, warning or error (info)"),
}

_RULES = {
    "--guarantee": ("SIZE", "memory that a node must have left for each session, as 450M (none)"),
    "--limit": ("SIZE", "memory that each session may use, such as 2G (what the node allows)"),
    "--quotas": ("WHAT", "nodes at a time: owner=5,image=100,owner:alice=20 (no limit)"),
    "--on-demand": ("WHEN", "always, never, or after waiting: 5m (always, as the last resort)"),
    "--rebalance-after": ("TIME", "an idle session moves to a cheaper node then, or never (600s)"),
}

_IMAGES = {
    "--registry": ("PREFIX", "push built images to HOST/…, such as r.example.org/binder/ (none)"),
    "--images-unused": ("TIME", "an image no session has is cleared away then, or never (30d)"),
    "--images-size": ("SIZE", "of images; beyond, those used longest ago go (no limit)"),
}

_UP_FLAGS = {
    "--nodes": ("N", "nodes to begin with (2)"),
    "--store": (
        "URL",
        "blob store: a directory, or s3://bucket/prefix?endpoint=URL&region=R&style=path"
        " (a directory in the state directory)",
    ),
    "--session": ("NAME", "the session to run, begun if there is none (default)"),
    "--master-key": ("FILE", "key file of the store (that of the state directory)"),
    "--port": ("P", "port for the browser (8888); the gateway takes one above it"),
    "--host": ("ADDRESS", "address for the browser (127.0.0.1)"),
    "--runtime": ("R", "auto, container or process (auto: see `sessionkeeper doctor`)"),
    "--state": ("DIR", "where everything is kept (root: /var/lib/sessionkeeper)"),
    "--workspace": ("DIR", "a new session's workspace begins with these files"),
    "--memory": ("SIZE", "memory that one kernel may use, such as 2G (no limit)"),
    "--lease-seconds": ("TIME", "a node silent for so long is lost (2s,volunteer=15s)"),
    "--on-rollback": ("WHAT", "replay or stop: cells that a lost node took with it (replay)"),
    "--keep": (
        "WHAT",
        "checkpoints that are kept: all=AGE,hourly=AGE,daily=AGE, or forever"
        " (all=1h,hourly=24h,daily=30d)",
    ),
    "--hibernate-after": ("TIME", "a session idle for so long is saved and releases its compute"),
    "--session-limits": (
        "WHAT",
        "sessions beyond are deleted, after a warning for so long: age=365d,unused=90d,stored=20G,"
        "grace=7d (never)",
    ),
    "--tier": ("TIER", "what the nodes claim to be: spot, volunteer, on-demand"),
    "--price": ("P", "what each node costs per hour, in any one currency (not known)"),
    **_RULES,
    **_IMAGES,
    "--criu": ("FILE", "the criu to use"),
    "--cpu-baseline": ("LEVEL", "x86-64-v2, -v3 or -v4: what kernels use at most (native)"),
    "--notices": ("NAMES", "who says that its nodes will go: none, auto, aws,logind,... (none)"),
    "--binder": ("WHO", "may have repositories built at the gateway: token, open or off (token)"),
    "--config": ("FILE", "settings as TOML, in the table [up]"),
}

_GATEWAY_FLAGS = {
    "--state": ("DIR", "directory for journals"),
    "--host": ("ADDRESS", "address to listen on (127.0.0.1)"),
    "--port": ("P", "port to listen on (8889)"),
    "--agent-host": ("ADDRESS", "another address to listen on, for agents"),
    "--token-file": ("FILE", "the operator's token: it opens all sessions"),
    "--session-token-file": ("FILE", "a token that opens the session to serve"),
    "--agent-token-file": ("FILE", "the token that agents show"),
    "--store": ("URL", "blob store: a directory, or s3://bucket/prefix?endpoint=URL"),
    "--master-key": ("FILE", "key that opens the sessions' keys; made when there is none"),
    "--lease-seconds": ("TIME", "a node silent for so long is lost (4s,volunteer=15s)"),
    "--on-rollback": ("WHAT", "replay or stop (replay)"),
    "--keep": ("WHAT", "checkpoints that are kept (all=1h,hourly=24h,daily=30d)"),
    "--hibernate-after": ("TIME", "a session idle for so long releases its compute (never)"),
    "--session-limits": (
        "WHAT",
        "sessions beyond are deleted, after a warning for so long: age=365d,unused=90d,stored=20G,"
        "grace=7d (never)",
    ),
    **_RULES,
    "--session": ("ID", "session to serve (default)"),
    "--seed": ("DIR", "a new session's workspace begins with these files"),
    "--images": ("DIR", "where built images are kept (in the state directory)"),
    **_IMAGES,
    "--binder": ("WHO", "may have repositories built: token, open or off (token)"),
    "--up": ("DIR", "state directory of the `up` that starts UI servers (none)"),
    "--compute": ("WHERE", "start each session's own: local, kubernetes or none (none)"),
    "--compute-config": ("FILE", "which cluster, as TOML: docs/kubernetes.md"),
    "--compute-grace": ("TIME", "what no session wants is kept for so long (30s)"),
    "--compute-name": ("NAME", "of this gateway, where several start compute (sessionkeeper)"),
    "--ready-fd": ("N", "descriptor to write a line to when it serves"),
    "--config": ("FILE", "TOML, in the table [gateway]; or .py, .json: of the kernel gateway"),
}

_AGENT_FLAGS = {
    "--gateway-url": ("URL", "the gateway, http://host:port"),
    "--token-file": ("FILE", "the agents' token"),
    "--identity": ("FILE", "what `node join` has left; instead of the token"),
    "--node": ("NAME", "name of this node"),
    "--tier": ("TIER", "spot, volunteer or on-demand (on-demand)"),
    "--price": ("P", "what this node costs per hour, in any one currency (not known)"),
    "--list-price": ("P", "what a machine like it costs on demand (from its cores)"),
    "--data": ("DIR", "directory for what kernels need here"),
    "--runtime": ("R", "container or process (process)"),
    "--criu": ("FILE", "the criu to use"),
    "--memory-bytes": ("SIZE", "memory that one kernel may use (no limit)"),
    "--offered-cores": ("N", "cores that sessions may use (all)"),
    "--offered-memory": ("SIZE", "memory that sessions may use (all)"),
    "--lazy-above": ("SIZE", "a kernel with more memory answers before it has arrived (128M)"),
    "--cgroup": ("PATH", "parent of the kernels' control groups"),
    "--cpu-baseline": (
        "LEVEL",
        "x86-64-v2, -v3 or -v4: what the pool's kernels use at most (native)",
    ),
    "--cpu-most": ("LEVEL", "treat this node's CPU as one of that level (native)"),
    "--notices": ("NAMES", "who says that it will go: auto, none, aws,logind,... (auto)"),
    "--metadata-url": ("URL", "the cloud's metadata service (http://169.254.169.254)"),
    "--grace": ("TIME", "what is left after SIGTERM, with the notice `signal` (30s)"),
    "--only-when": ("WHEN", "offer it plugged-in, away, night or 22:00-07:00 only (always)"),
    "--ready-fd": ("N", "descriptor to write a line to when the gateway accepted it"),
    "--config": ("FILE", "settings as TOML, in the table [agent]"),
}

_UI_FLAGS = {
    "--session": ("NAME", "for this session of an `up` here: finds gateway and tokens by itself"),
    "--up": ("DIR", "state directory of that `up`"),
    "--state": ("DIR", "directory for notebook sessions and lab settings"),
    "--host": ("ADDRESS", "address to listen on (127.0.0.1)"),
    "--port": ("P", "port to listen on (8888)"),
    "--token-file": ("FILE", "the token that browsers show"),
    "--gateway-url": ("URL", "the gateway, http://host:port"),
    "--gateway-token-file": ("FILE", "the token that the gateway wants"),
    "--base-url": ("PATH", "path that its URLs begin with (/)"),
    "--allow-origin": ("URL", "pages from there may talk to it, with its token (none)"),
    "--ready-fd": ("N", "descriptor to write a line to when it serves"),
    "--config": ("FILE", "settings as TOML, in the table [ui]"),
}


def _add_up(commands: Any) -> None:
    parser = _add(commands, "up", "start everything on this machine", "running:up", _UP)
    _flags(parser, _UP_FLAGS)
    parser.add_argument(
        "--no-ui", dest="ui", action="store_const", const="false", help="no JupyterLab"
    )


def _add_operating(commands: Any) -> None:
    for name, text in {
        "down": "stop a running `up`; the session is kept",
        "status": "say where the session is, how old its checkpoint is, what happened",
        "url": "print the URL for the browser, with its token",
    }.items():
        parser = _add(commands, name, text, f"running:{name}")
        _add_state(parser)
        if name == "status":
            _add_session(parser)
            parser.add_argument("--json", action="store_true", help="as the gateway says it")


def _add_checkpoint(commands: Any) -> None:
    text = "list, name, go back to, fork and clear away checkpoints"
    group = _add(commands, "checkpoint", text, epilog=_CHECKPOINT)
    group.set_defaults(shown=group)
    actions = group.add_subparsers(title="actions", metavar="ACTION")

    def action(name: str, text: str, run: str, epilog: str = "") -> Parser:
        parser = _add(actions, name, text, f"checkpoint:{run}", epilog)
        _add_state(parser)
        _add_session(parser)
        return parser

    parser = action("list", "when each was made, its size, tags and kernels", "list_checkpoints")
    parser.add_argument("--json", action="store_true", help="as the gateway says it")
    parser = action("tag", "give a checkpoint a name; it is kept from then on", "tag")
    parser.add_argument("name", metavar="NAME")
    help_ = "of the checkpoint (one is made of now)"
    parser.add_argument("number", metavar="NUMBER", nargs="?", type=int, help=help_)
    parser = action("untag", "take a name away", "untag")
    parser.add_argument("name", metavar="NAME")
    parser = action("restore", "go back to a checkpoint", "restore", _RESTORE)
    parser.add_argument("at", metavar="CHECKPOINT", help="number or tag")
    help_ = "do not save what is now, for instance because it cannot be saved"
    parser.add_argument("--discard", action="store_true", help=help_)
    parser = action("fork", "begin another session with a checkpoint", "fork", _FORK)
    parser.add_argument("at", metavar="CHECKPOINT", help="number or tag")
    parser.add_argument("--as", dest="new", metavar="NAME", required=True, help="its name")
    action("prune", "delete at once what need not be kept (see `up --keep`)", "prune")


def _add_machine(commands: Any) -> None:
    parser = _add(
        commands, "doctor", "which runtime this machine gets, why, what to do", "running:doctor"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    _add_state(parser)
    parser = _add(commands, "setup", "install what is missing, as root", "running:setup")
    parser.add_argument("what", choices=["criu"], help="a CRIU that runs on this machine")
    parser.add_argument("--rebuild", action="store_true", help="even if there is one that works")
    _add(commands, "bench", "measure: recovery, latency, start")


def _add_parts(commands: Any) -> None:
    for name, text, flags in (
        ("gateway", "the kernel gateway that UI servers and agents talk to", _GATEWAY_FLAGS),
        ("ui", "a JupyterLab server without compute of its own", _UI_FLAGS),
        ("agent", "offer this machine's compute to a gateway", _AGENT_FLAGS),
    ):
        parser = _add(commands, name, text, f"parts:{name}", _INTERNAL + _SOURCES)
        _flags(parser, flags)
