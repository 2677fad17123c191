"""The journal of workspace writes: what was recorded is kept, whenever the process ended."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sessionkeeper.keeper.writes import Write, WriteJournal


def upload(journal: WriteJournal, content: bytes) -> Path:
    path = journal.incoming()
    path.write_bytes(content)
    return path


def reopened(base: Path) -> list[Write]:
    journal = WriteJournal(base)
    try:
        return journal.after(0)
    finally:
        journal.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Have the kernel refuse files beyond ``size`` bytes, as a full disk would: in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_was_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    made = [
        journal.record("write", "a.txt", data=upload(journal, b"one"), at=12.5),
        journal.record("append", "a.txt", data=upload(journal, b"two")),
        journal.record("rename", os.fsdecode(b"caf\xe9"), to="b.txt"),
        journal.record("delete", "b", recursive=True),
    ]
    journal.close()
    again = WriteJournal(tmp_path)
    assert again.after(0) == made
    assert [w.number for w in made] == [1, 2, 3, 4]
    assert made[0].size == 3
    assert again.data(1).read_bytes() + again.data(2).read_bytes() == b"onetwo"
    assert again.last == 4
    assert [w.number for w in again.after(2)] == [3, 4]
    again.close()


def test_a_crash_at_any_byte_loses_nothing_recorded(tmp_path: Path) -> None:
    base = tmp_path / "journal"
    journal = WriteJournal(base)
    steps: list[tuple[int, list[Write]]] = [(0, [])]
    for step in ("one", "two", "three", None, "four"):
        if step is None:
            journal.void(2)
        else:
            journal.record("mkdir", step)
        steps.append(((base / "log").stat().st_size, journal.after(0)))
    journal.close()
    log = (base / "log").read_bytes()
    for size in range(len(log) + 1):
        shutil.rmtree(base)
        base.mkdir()
        (base / "log").write_bytes(log[:size])
        there = [state for end, state in steps if end <= size][-1]
        assert reopened(base) == there
        journal = WriteJournal(base)
        new = journal.record("mkdir", "after the crash")
        journal.close()
        assert reopened(base) == [*there, new]


def test_numbers_are_never_used_again(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    for _ in range(3):
        journal.record("mkdir", "x")
    journal.void(3)
    journal.release(2)
    journal.close()
    again = WriteJournal(tmp_path)
    assert again.record("mkdir", "y").number == 4
    again.close()


def test_released_records_and_their_bytes_are_gone(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    for content in (b"1", b"2", b"3"):
        journal.record("write", "x", data=upload(journal, content))
    journal.release(2)
    journal.release(2)
    assert [w.number for w in journal.after(0)] == [3]
    assert sorted(p.name for p in tmp_path.glob("*.data")) == ["3.data"]
    journal.record("write", "x", data=upload(journal, b"4"))
    journal.close()
    assert [w.number for w in reopened(tmp_path)] == [3, 4]


def test_a_refused_operation_is_not_done_later(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    journal.record("mkdir", "x")
    refused = journal.record("write", "y", data=upload(journal, b"data"))
    journal.void(refused.number)
    assert [w.number for w in journal.after(0)] == [1]
    assert not journal.data(refused.number).exists()
    journal.close()
    assert [w.number for w in reopened(tmp_path)] == [1]


def test_half_uploads_and_bytes_without_a_record_are_cleared_away(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    upload(journal, b"half")
    journal.close()
    (tmp_path / "7.data").write_bytes(b"crashed before it was recorded")
    WriteJournal(tmp_path).close()
    assert list((tmp_path / "incoming").iterdir()) == []
    assert list(tmp_path.glob("*.data")) == []


@pytest.mark.parametrize("room", [0, 1, 40])
def test_full_disk_refuses_the_record_and_leaves_the_journal_readable(
    tmp_path: Path, room: int
) -> None:
    journal = WriteJournal(tmp_path)
    first = journal.record("mkdir", "before")
    size = (tmp_path / "log").stat().st_size
    data = upload(journal, b"x" * 10)
    with largest_file(size + room), pytest.raises(OSError) as refused:
        journal.record("write", "too much", data=data)
    assert refused.value.errno == errno.EFBIG
    assert journal.after(0) == [first]
    assert list(tmp_path.glob("*.data")) == []  # what did not fit does not take room either
    later = journal.record("mkdir", "when there is room again")
    assert later.number == 2
    last = journal.record("mkdir", "and so on")
    journal.close()
    assert reopened(tmp_path) == [first, later, last]


def test_full_disk_while_releasing_keeps_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = WriteJournal(tmp_path)
    journal.record("write", "x", data=upload(journal, b"1"))
    second = journal.record("write", "x", data=upload(journal, b"2"))
    with largest_file(3), pytest.raises(OSError):
        journal.release(1)
    third = journal.record("mkdir", "y")
    journal.close()
    again = WriteJournal(tmp_path)
    assert again.after(1) == [second, third]
    assert again.data(2).read_bytes() == b"2"
    again.release(2)
    assert again.after(0) == [third]
    again.close()
