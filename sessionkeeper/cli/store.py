"""`sessionkeeper store list|show|tag|untag|fork|prune|gc|rotate-key`."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from typing import Any

from checkpoint import holder, tags
from checkpoint.blobs import LocalDirectory
from checkpoint.collect import collect
from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.fork import fork as fork_session
from checkpoint.fork import forks
from checkpoint.keys import ENVIRONMENT, master_keys_of_environment
from checkpoint.manifest import Manifest
from checkpoint.repository import DELETED, Repository
from checkpoint.retention import Retention
from checkpoint.rotation import drop_old, rotate
from sessionkeeper.cli.store_place import Place, steps
from sessionkeeper.errors import UsageError
from sessionkeeper.retention import parse_age

__all__ = ["fork", "gc", "list_sessions", "prune", "rotate_key", "show", "tag", "untag"]


def list_sessions(arguments: Namespace) -> int:
    """A line for each session of the store."""
    found: list[dict[str, Any]] = []
    for repository in Place(arguments).sessions(None):
        numbers = repository.numbers()
        newest = _newest(repository)
        found.append(
            {
                "session": repository.session_id,
                "checkpoints": len(numbers),
                "newest": numbers[-1] if numbers else None,
                "created": newest.created if newest else None,
                "bytes": _size(newest) if newest else 0,
                "tags": tags.names(repository.blobs),
                "deleted": newest is not None and DELETED in newest.meta,
                "shares_packs_of": None
                if repository.pool == repository.session_id
                else repository.pool,
            }
        )
    if arguments.json:
        return _print({"sessions": found})
    print(f"{'SESSION':<24} {'CHECKPOINTS':>11} {'NEWEST':>7} {'MADE':<20} {'SIZE':>10}  TAGS")
    for one in found:
        of = f"  (fork in the pool of {one['shares_packs_of']})" if one["shares_packs_of"] else ""
        of += "  (deleted)" if one["deleted"] else ""
        print(
            f"{one['session']:<24} {one['checkpoints']:>11} {one['newest'] or '-':>7}"
            f" {_when(one['created']):<20} {_megabytes(one['bytes']):>10}"
            f"  {', '.join(one['tags']) or '-'}{of}"
        )
    return 0


def show(arguments: Namespace) -> int:
    """A line for each checkpoint of a session."""
    repository = Place(arguments).session(arguments.session)
    named = tags.numbers(repository.blobs, repository.keys, repository.session_id)
    found: list[dict[str, Any]] = []
    for number, manifest in repository.load_all(repository.numbers()):
        entry: dict[str, Any] = {"number": number, "tags": named.get(number, [])}
        if isinstance(manifest, Manifest):
            entry |= {
                "created": manifest.created,
                "epoch": manifest.epoch,
                "bytes": _size(manifest),
                "kernels": len(manifest.processes),
            }
        else:
            entry["error"] = str(manifest)
        found.append(entry)
    if arguments.json:
        about = {"session": repository.session_id, "pool": repository.pool}
        return _print({**about, "forks": forks(repository), "checkpoints": found})
    print(f"{'NUMBER':>6} {'MADE':<20} {'EPOCH':>5} {'KERNELS':>7} {'SIZE':>10}  TAGS")
    for one in found:
        if "error" in one:
            print(f"{one['number']:>6} {one['error']}")
            continue
        print(
            f"{one['number']:>6} {_when(one['created']):<20} {one['epoch']:>5}"
            f" {one['kernels']:>7} {_megabytes(one['bytes']):>10}  {', '.join(one['tags']) or '-'}"
        )
    return 0


def tag(arguments: Namespace) -> int:
    """Name a checkpoint."""
    repository = Place(arguments, writes=True).session(arguments.session)
    try:
        number = tags.tag(repository, arguments.name, arguments.number)
    except ValueError as error:
        raise UsageError(str(error)) from None
    text = f"checkpoint {number} of {arguments.session} is called {arguments.name}, and is kept"
    return _done(arguments, text, session=arguments.session, tag=arguments.name, number=number)


def untag(arguments: Namespace) -> int:
    """Take a name away."""
    repository = Place(arguments, writes=True).session(arguments.session)
    try:
        tags.untag(repository, arguments.name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    text = f"{arguments.name} is no name in {arguments.session} any more"
    return _done(arguments, text, session=arguments.session, tag=arguments.name)


def fork(arguments: Namespace) -> int:
    """Begin a new session with a checkpoint of another one."""
    place = Place(arguments, writes=True)
    repository = place.session(arguments.session)
    number, name = _which(arguments.at)
    try:
        made = fork_session(repository, arguments.new, *place.masters, number=number, tag=name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    text = f"{arguments.new} begins where {arguments.session} was; it shares its chunks"
    return _done(arguments, text, session=arguments.new, shares_packs_of=made.pool)


def prune(arguments: Namespace) -> int:
    """Delete checkpoints that are not to be kept."""
    policy = Retention(*(_age(arguments, each) for each in ("all", "hourly", "daily")))
    gone = {}
    with steps(arguments, "deleting checkpoints"):
        place = Place(arguments, writes=not arguments.dry_run)
        for repository in place.sessions(arguments.session):
            gone[repository.session_id] = repository.prune(
                policy, damaged=arguments.damaged, dry=arguments.dry_run
            )
    if arguments.json:
        return _print({"deleted": gone, "dry_run": arguments.dry_run})
    for session_id, numbers in gone.items():
        verb = "would delete" if arguments.dry_run else "deleted"
        print(f"{session_id}: {verb} {len(numbers)} {_plural(numbers)}")
    return 0


def gc(arguments: Namespace) -> int:
    """Delete packs that no checkpoint names."""
    done = {}
    with steps(arguments, "collecting garbage") as progress:
        place = Place(arguments, writes=True)
        for repository in place.pools(arguments.session):
            idle = {*arguments.idle, *holder.idle(repository)}
            done[repository.pool] = collect(
                repository, idle=idle, offline=arguments.offline, progress=progress
            )
    if isinstance(place.store, LocalDirectory):
        place.store.sweep()
    if arguments.json:
        return _print({"pools": {name: vars(result) for name, result in done.items()}})
    for name, result in done.items():
        print(f"{name}: deleted {len(result.deleted)} packs, {result.listed} wait for a later run")
        if result.waits_for:
            print(
                f"  they wait until {', '.join(result.waits_for)} has two more checkpoints;"
                " if nobody writes there, say so with --idle SESSION or --offline"
            )
    return 0


def rotate_key(arguments: Namespace) -> int:
    """Replace the master key."""
    place = Place(arguments, writes=True)
    if master_keys_of_environment():
        raise UsageError(
            f"the master key comes from {ENVIRONMENT}",
            hint="put the new key before the old one there and run it again with --master-key FILE",
        )
    if arguments.drop_old:
        done = drop_old(place.store, place.key_file)
        text = f"only the new master key is left; {done.checked} sessions were checked to have it"
        for kept in done.old:
            text += f"\nthe old one is in {kept}: remove it once no backup needs it"
        old = [str(kept) for kept in done.old]
        return _done(arguments, text, dropped=len(old), checked=done.checked, old=old)
    with steps(arguments, "wrapping the sessions' keys anew") as progress:
        sessions, resumed = rotate(
            place.store,
            place.key_file,
            progress=lambda number, total: progress("sessions", number, total),
        )
    text = (
        f"{len(sessions)} sessions have the new master key; the old one is still in"
        f" {place.key_file}.\n"
        "Restart what uses this store, then `sessionkeeper store rotate-key --drop-old`"
    )
    return _done(arguments, text, sessions=sessions, resumed=resumed)


def _newest(repository: Repository) -> Manifest | None:
    try:
        return repository.newest()
    except (Damaged, UnknownFormat):
        return None


def _which(at: str | None) -> tuple[int | None, str | None]:
    if at is None:
        return None, None
    return (int(at), None) if at.isdecimal() else (None, at)


def _age(arguments: Namespace, name: str) -> float:
    text: str = getattr(arguments, name)
    try:
        return parse_age(text)
    except ValueError as error:
        raise UsageError(f"--{name}: {text!r} {error}") from None


def _size(manifest: Manifest) -> int:
    return sum(ref.size for ref in manifest.packs)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _when(created: float | None) -> str:
    if created is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created))


def _plural(numbers: list[int]) -> str:
    text = "checkpoint" if len(numbers) == 1 else "checkpoints"
    return text + (f" ({', '.join(map(str, numbers))})" if 0 < len(numbers) <= 20 else "")


def _done(arguments: Namespace, text: str, **facts: object) -> int:
    if arguments.json:
        return _print(facts)
    print(text)
    return 0


def _print(what: object) -> int:
    print(json.dumps(what, indent=1))
    return 0
