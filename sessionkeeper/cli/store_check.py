"""`sessionkeeper store fsck`."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from checkpoint import holder
from checkpoint.blobs import BlobStore
from checkpoint.errors import CheckpointError, Damaged, SessionInUse, UnknownFormat, UnknownSession
from checkpoint.fork import forks, pool_sessions
from checkpoint.fsck import Finding, Report, check
from checkpoint.repair import rebuild, repair, repair_key
from checkpoint.repository import Repository
from sessionkeeper.cli.store_place import Place, existing_store, steps
from sessionkeeper.errors import UsageError

__all__ = ["fsck"]

DAMAGE_FOUND = 1


def fsck(arguments: Namespace) -> int:
    """Read everything; name what is damaged, and put back what can be."""
    place = Place(arguments, writes=arguments.repair or arguments.rebuild)
    if arguments.peer and not arguments.repair:
        raise UsageError("--peer is for --repair", hint="say --repair too, or leave --peer out")
    peer = existing_store(arguments.peer, "--peer") if arguments.peer else None
    told: list[dict[str, Any]] = []
    left, seen = 0, set()
    with steps(arguments, "reading every byte") as progress:
        for session_id in [arguments.session] if arguments.session else _present(place.store):
            try:
                repository = _opened(place, session_id, peer, told, arguments.repair)
            except (Damaged, UnknownFormat, UnknownSession) as error:
                if isinstance(error, UnknownSession):
                    if arguments.session:
                        raise
                    error = Damaged(f"The key of session {session_id!r}", "it is missing")
                left += 1
                told.append({"what": error.what, "why": str(error), "all_checkpoints": True})
                continue
            if repository.pool in seen:
                continue
            seen.add(repository.pool)
            report = check(repository, progress)
            if not report.intact and arguments.repair:
                report = _repaired(repository, report, peer, told, progress)
            if arguments.rebuild:
                if (where := holder.runs(repository, progress=progress)) is not None:
                    raise SessionInUse(session_id, where)
                made = rebuild(repository, report)
                if made is not None:
                    told.append({"session": session_id, "rebuilt_as": made.number})
            told += [
                {"session": one.session_id, "deleted": True, "forks": forks(one)}
                for one in pool_sessions(repository)
                if one.is_closed()
            ]
            left += len(report.findings)
            told += [_finding(finding) for finding in report.findings]
            if not arguments.json:
                megabytes = report.size / 1e6
                print(
                    f"{repository.pool}: read {report.checkpoints} checkpoints,"
                    f" {report.packs} packs, {megabytes:.1f} MB"
                )
    if arguments.json:
        print(json.dumps({"intact": left == 0, "findings": told}, indent=1))
    else:
        for one in told:
            print(_in_words(one))
        print("all of it is intact" if left == 0 else f"{left} damaged objects are left")
    return DAMAGE_FOUND if left else 0


def _present(store: BlobStore) -> list[str]:
    """All sessions of which there is anything: a lost key is damage too. But a word is not of a
    session: one that was deleted may have got it from a gateway that had not heard of that yet."""
    keys = (key.split("/") for key in store.list("sessions/"))
    return sorted({key[1] for key in keys if key[2:] != ["holder"]})


def _opened(
    place: Place,
    session_id: str,
    peer: BlobStore | None,
    told: list[dict[str, Any]],
    may_repair: bool,
) -> Repository:
    try:
        return place.session(session_id)
    except (Damaged, UnknownSession) as error:
        if peer is None or not may_repair:
            raise
        try:
            repair_key(place.store, session_id, peer, *place.masters)
        except CheckpointError:
            raise error from None
        told.append({"what": f"The key of session {session_id!r}", "repaired_from": "the peer"})
        return place.session(session_id)


def _repaired(
    repository: Repository,
    report: Report,
    peer: BlobStore | None,
    told: list[dict[str, Any]],
    progress: Callable[[str, int, int], None],
) -> Report:
    """Repair until nothing more comes back: a manifest that does names packs to look at."""
    while done := repair(repository, report, peer):
        told += [{**_finding(one.finding), "repaired_from": one.source} for one in done]
        report = check(repository, progress)
    return report


def _finding(finding: Finding) -> dict[str, Any]:
    touches = sorted(finding.touches)
    return {"key": finding.key, "what": finding.what, "why": finding.why, "touches": touches}


def _in_words(one: dict[str, Any]) -> str:
    if "deleted" in one:
        needed = one["session"], ", ".join(one["forks"])
        again = "`sessionkeeper store delete` again finishes that, if it was stopped"
        return f"{needed[0]} was deleted; {again}" + (
            f"; its packs stay for {needed[1]}" if needed[1] else ""
        )
    if "rebuilt_as" in one:
        return f"{one['session']}: its newest checkpoint was made anew as {one['rebuilt_as']}"
    text = one.get("why") or f"{one['what']} was damaged."
    if one.get("touches"):
        text += " Touches " + ", ".join(f"{s} {n}" for s, n in one["touches"]) + "."
    if one.get("all_checkpoints"):
        text += " No checkpoint of the session can be read."
    if "repaired_from" in one:
        text += f" Repaired from {one['repaired_from']}."
    return text
