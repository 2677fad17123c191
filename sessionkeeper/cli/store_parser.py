"""What can be typed after `sessionkeeper store`, and its help."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

__all__ = ["add_store"]

_STORE = """\
A checkpoint is an entry of a session's chain; its contents are chunks in packs. `prune` deletes
entries that need not be kept, `gc` the packs that no entry names any more.

examples:
  sessionkeeper store list
  sessionkeeper store show default
  sessionkeeper store tag default before-upgrade
  sessionkeeper store fork default experiment --at before-upgrade
  sessionkeeper store prune --dry-run
  sessionkeeper store gc
  sessionkeeper store fsck --store s3://bucket/sessions?endpoint=https://s3.example.org

The store and master key are those of `sessionkeeper up` with the same --state, or given by --store
and --master-key. All of it may be done while sessions run, but for what says otherwise.

exit codes:
  1 damage was found, or the session to make exists   2 wrong flags   3 the session is run
  5 store or key cannot be used   8 no such session, checkpoint or tag   11 store full
  69 the store does not answer
"""

_PRUNE = """\
Kept are all checkpoints of the last hour, one an hour for a day, one a day for 30 days, the newest,
and all that have a tag. Ages count from the newest checkpoint, not from this machine's clock.
Space is freed by `gc` afterwards.

examples:
  sessionkeeper store prune --dry-run
  sessionkeeper store prune default --all 10m --hourly 12h --daily 7d
"""

_GC = """\
Runs beside writers. What a running session may be about to use is only listed; the next run deletes
it when every session that is run and shares the packs has two more checkpoints. Of a session whose
gateway ended without a word, say that it is not run: --idle SESSION, or --offline when none is.
"""

_DELETE = """\
All of it goes: checkpoints, tags, what is stored, the key. What forks of it need stays until they
are deleted too. Refused while a gateway runs the session; where one ended without a word, a minute
passes until that is known. Stopped at any point, run it again: until then nothing can be added to
the session, and `fsck` says so.

examples:
  sessionkeeper store delete experiment
  sessionkeeper store delete experiment --yes

exit codes:
  1 not confirmed   2 --yes is needed   3 it is run   8 no such session
"""

_FSCK = """\
Reads every byte that a checkpoint reaches, once. With --repair, damaged objects are put back from
--peer (another copy of the store) or from a tag. With --rebuild, the newest checkpoint of a session
that does not run is made anew, if other packs hold all of its chunks.

exit code 1: damage is left
"""

_ROTATE = """\
Puts a new key before the old one in the key file, and wraps every session's key with it. Stopped at
any point, run it again. Then restart what uses the store, and take the old key away:

  sessionkeeper store rotate-key
  sessionkeeper store rotate-key --drop-old
"""


def add_store(commands: Any, add: Callable[..., ArgumentParser]) -> None:
    """Add the commands to the parser; `add` makes one of a name, a help text and a function."""
    store = add(commands, "store", "checkpoints: list, name, fork, thin out, check", epilog=_STORE)
    store.set_defaults(shown=store)
    actions = store.add_subparsers(title="actions", metavar="ACTION")

    def action(name: str, text: str, run: str, epilog: str = "") -> ArgumentParser:
        parser = add(actions, name, text, run, epilog)
        parser.add_argument("--json", action="store_true", help="for programs")
        parser.add_argument(
            "--state", metavar="DIR", help="state directory of the `up` that is meant"
        )
        parser.add_argument("--store", metavar="URL", help="store (that of the state directory)")
        parser.add_argument(
            "--master-key", metavar="FILE", help="key file (of the state directory)"
        )
        return parser

    def optional_session(parser: ArgumentParser) -> None:
        parser.add_argument("session", metavar="SESSION", nargs="?", help="all when absent")

    def session(parser: ArgumentParser) -> None:
        parser.add_argument("session", metavar="SESSION")

    action("list", "the sessions of the store", "store:list_sessions")
    session(action("show", "the checkpoints of a session", "store:show"))
    parser = action("tag", "give a checkpoint a name; it is kept from then on", "store:tag")
    session(parser)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "number", metavar="NUMBER", nargs="?", type=int, help="the newest if absent"
    )
    parser = action("untag", "take a name away", "store:untag")
    session(parser)
    parser.add_argument("name", metavar="NAME")
    parser = action("fork", "begin a new session with a checkpoint of this one", "store:fork")
    session(parser)
    parser.add_argument("new", metavar="NEW", help="id of the new session")
    parser.add_argument("--at", metavar="CHECKPOINT", help="number or tag (the newest)")
    parser = action("prune", "delete checkpoints that need not be kept", "store:prune", _PRUNE)
    optional_session(parser)
    for flag, default, text in (
        ("--all", "1h", "keep all up to this age"),
        ("--hourly", "24h", "then one an hour up to this age"),
        ("--daily", "30d", "then one a day up to this age"),
    ):
        parser.add_argument(flag, metavar="AGE", default=default, help=f"{text} ({default})")
    parser.add_argument("--damaged", action="store_true", help="also what cannot be read")
    parser.add_argument("--dry-run", action="store_true", help="say what, delete nothing")
    parser = action("gc", "delete packs that no checkpoint names", "store:gc", _GC)
    optional_session(parser)
    parser.add_argument("--idle", metavar="SESSION", action="append", default=[], help="is not run")
    parser.add_argument("--offline", action="store_true", help="no session runs: delete at once")
    parser = action("delete", "delete a session for good", "store_delete:delete", _DELETE)
    session(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser = action("fsck", "read everything, name what is damaged", "store_check:fsck", _FSCK)
    optional_session(parser)
    parser.add_argument("--peer", metavar="URL", help="another copy of the store")
    parser.add_argument("--repair", action="store_true", help="put back what can be")
    parser.add_argument("--rebuild", action="store_true", help="make the newest checkpoint anew")
    parser = action("rotate-key", "replace the master key", "store:rotate_key", _ROTATE)
    parser.add_argument(
        "--drop-old", action="store_true", help="take the old keys away, at the end"
    )
