"""Checking a session and the forks that share its packs: every byte that a checkpoint or a tag
reaches is read once. What is damaged is named, with the checkpoints it touches; nothing is changed
(`checkpoint.repair` does that).

Packs are read in ranges, a few at once: at most about 64 MiB are in memory, whatever there is, and
for each pack some 300 bytes and one bit per checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeAlias

from checkpoint import garbage, tags
from checkpoint.errors import CheckpointError, Damaged, NotFound, UnknownFormat
from checkpoint.fork import check_marker, forks, marker_key
from checkpoint.manifest import Manifest, decode_manifest
from checkpoint.packs import PackRef, tail_size, verify_pack
from checkpoint.repository import Repository, manifest_key
from checkpoint.salvage import entries_of, is_whole

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it is, and how much there is (objects, or bytes)."""

Touched: TypeAlias = frozenset[tuple[str, int]]
"""Checkpoints: the session's id, the number."""

_READERS = 3


@dataclass(frozen=True)
class Finding:
    """One damaged object: where it is in the store ("" when it is nowhere), what it is, what is
    wrong (a sentence), and the checkpoints that cannot be restored whole because of it."""

    key: str
    what: str
    why: str
    touches: Touched = frozenset()


@dataclass
class Report:
    """What was read (`size` in bytes of packs), and what was found."""

    findings: list[Finding] = field(default_factory=list)
    checkpoints: int = 0
    packs: int = 0
    size: int = 0
    lost: dict[PackRef, frozenset[bytes] | None] = field(default_factory=dict)
    """Packs with damage: the chunks that are; None when not even that can be read."""

    @property
    def intact(self) -> bool:
        return not self.findings


class _Checked(NamedTuple):
    intact: set[bytes]
    errors: list[CheckpointError]
    lost: frozenset[bytes] | None


def check(repository: Repository, progress: Progress = lambda what, done, total: None) -> Report:
    """Check the whole pool of a session. Raises what the store raises, but for damage: that is in
    the report. (A damaged session key is raised by `Repository.existing`.)"""
    report = Report()
    named: dict[PackRef, int] = {}
    roots: dict[tuple[str, int], set[bytes]] = {}
    for name in forks(repository):
        _try(report, marker_key(repository.pool, name), partial(check_marker, repository, name))
    for session in _sessions(repository, report):
        _check_chain(session, report, named, roots, progress)
    _try_garbage(repository, report)
    _check_packs(repository, report, named, roots, progress)
    return report


def _sessions(repository: Repository, report: Report) -> Iterable[Repository]:
    yield repository.sharing(repository.pool)
    for name in forks(repository):
        yield repository.sharing(name)


def _check_chain(
    session: Repository,
    report: Report,
    named: dict[PackRef, int],
    roots: dict[tuple[str, int], set[bytes]],
    progress: Progress,
) -> None:
    def note(manifest: Manifest) -> None:
        which = (session.session_id, manifest.number)
        report.checkpoints += which not in roots
        roots[which] = set(manifest.body.roots())
        bit = 1 << list(roots).index(which)
        for ref in manifest.packs:
            named[ref] = named.get(ref, 0) | bit

    numbers = session.numbers()
    what = f"checkpoints of {session.session_id}"
    for done, (number, found) in enumerate(session.load_all(numbers), 1):
        if isinstance(found, Manifest):
            note(found)
        elif not isinstance(found, NotFound):
            touched = frozenset({(session.session_id, number)})
            key = session.blobs.prefix + manifest_key(number)
            report.findings.append(Finding(key, found.what, str(found), touched))
        progress(what, done, len(numbers))
    for name in tags.names(session.blobs):

        def check_tag(name: str = name) -> None:
            tag = tags.load(session.blobs, session.keys, session.session_id, name)
            note(decode_manifest(tag.stored, session.keys, session.session_id, tag.number))

        _try(report, f"{session.blobs.prefix}tags/{name}", check_tag)


def _try(report: Report, key: str, do: Callable[[], object]) -> None:
    try:
        do()
    except (Damaged, UnknownFormat) as error:
        report.findings.append(Finding(key, error.what, str(error)))
    except NotFound:
        pass  # removed meanwhile


def _try_garbage(repository: Repository, report: Report) -> None:
    pool, key = repository.pool, garbage.mark_key(repository.pool)
    _try(report, key, lambda: garbage.decode(repository.store.get(key), repository.keys, pool))


def _without_index(repository: Repository, ref: PackRef, errors: list[CheckpointError]) -> _Checked:
    """What can be said of a pack whose index is damaged, if there is one."""
    try:
        entries = entries_of(repository.blobs, repository.keys, ref)
    except (Damaged, NotFound, UnknownFormat):
        return _Checked(set(), errors, None)
    size = ref.size - tail_size(ref)
    read = sum(entry.length for entry in entries)
    why = f"of {size} bytes of chunks {read} can be read without its index"
    errors.append(Damaged(f"Pack {ref.id.hex()}", why))
    lost = frozenset[bytes]() if is_whole(ref, entries) else None
    return _Checked({entry.id for entry in entries}, errors, lost)


def _still(repository: Repository, those: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those checkpoints that are still there: packs of one that was deleted meanwhile may go."""

    def is_there(session: Repository, number: int) -> bool:
        try:
            session.blobs.get(manifest_key(number), 0, 1)
        except NotFound:
            try:
                return number in tags.numbers(session.blobs, session.keys, session.session_id)
            except (Damaged, UnknownFormat):
                return True  # nobody knows, and better too much is said than too little
        return True

    return {(name, number) for name, number in those if is_there(repository.sharing(name), number)}


def _check_packs(
    repository: Repository,
    report: Report,
    named: dict[PackRef, int],
    roots: dict[tuple[str, int], set[bytes]],
    progress: Progress,
) -> None:
    total = sum(ref.size for ref in named)
    checkpoints = list(roots)

    def check_one(ref: PackRef) -> _Checked:
        errors: list[CheckpointError] = []
        lost: set[bytes] = set()
        whole = True

        def bad(name: bytes | None, error: Damaged | UnknownFormat) -> None:
            nonlocal whole
            errors.append(error)
            if name is None:
                whole = False
            else:
                lost.add(name)

        intact = verify_pack(repository.blobs, repository.keys, ref, bad)
        if whole or intact:
            return _Checked(intact, errors, frozenset(lost))
        return _without_index(repository, ref, errors)

    with ThreadPoolExecutor(_READERS, "fsck") as pool:
        refs = sorted(named)
        for ref, (intact, errors, lost) in zip(refs, pool.map(check_one, refs), strict=True):
            those = {which for at, which in enumerate(checkpoints) if named[ref] >> at & 1}
            for which in those:
                roots[which] -= intact
            report.packs += 1
            report.size += ref.size
            those = _still(repository, those) if errors else those
            if errors and those:
                report.lost[ref] = lost
                report.findings.append(
                    Finding(
                        f"sessions/{repository.pool}/{ref.key}",
                        f"Pack {ref.id.hex()}",
                        " ".join(map(str, errors[:3]))
                        + (f" And {len(errors) - 3} more." if len(errors) > 3 else ""),
                        frozenset(those),
                    )
                )
            progress("bytes of packs", report.size, total)
    touched = {which for finding in report.findings for which in finding.touches}
    for (session_id, number), missing in sorted(roots.items()):
        if not missing or not _still(repository, {(session_id, number)} - touched):
            continue
        for root in missing:
            touches = frozenset({(session_id, number)})
            what = f"Chunk {root.hex()}"
            why = f"{what} is damaged: no pack of checkpoint {number} holds it."
            report.findings.append(Finding("", what, why, touches))
