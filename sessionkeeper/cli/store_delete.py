"""`sessionkeeper store delete`."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace

from checkpoint.deletion import delete as delete_session
from checkpoint.errors import SessionInUse
from checkpoint.repository import Repository
from sessionkeeper.cli.store_place import Place, steps
from sessionkeeper.errors import UsageError

__all__ = ["delete"]

NOT_CONFIRMED = 1


def delete(arguments: Namespace) -> int:
    """Delete a session for good."""
    place = Place(arguments, writes=True)
    repository = place.session(arguments.session)
    runs = place.state.read_record() or {}
    if place.state.is_locked() and (runs.get("session"), runs.get("store")) == (
        arguments.session,
        place.url,
    ):
        raise SessionInUse(arguments.session, "this machine")  # sooner than its word would tell
    if not arguments.yes and not _confirmed(repository):
        print("nothing was deleted")
        return NOT_CONFIRMED
    with steps(arguments, f"deleting {arguments.session}") as progress:
        done = delete_session(repository, progress=progress)
    # What a gateway knew of it; one that runs would have given word.
    shutil.rmtree(place.state.gateway / "sessions" / arguments.session, ignore_errors=True)
    if arguments.json:
        print(json.dumps({"session": arguments.session, **vars(done)}, indent=1))
        return 0
    print(f"{arguments.session} is deleted: {done.checkpoints} checkpoints, {done.packs} packs")
    if done.kept_for:
        print(f"its packs stay for its forks: {', '.join(done.kept_for)}")
    if done.pool:
        print(f"with it went the packs of {done.pool}, which was deleted before")
    return 0


def _confirmed(repository: Repository) -> bool:
    if not sys.stdin.isatty():
        hint = "there is no way back"
        raise UsageError(f"say --yes to delete session {repository.session_id}", hint=hint)
    number = len(repository.numbers())
    question = f"Delete session {repository.session_id} with its {number} checkpoints for good?"
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
