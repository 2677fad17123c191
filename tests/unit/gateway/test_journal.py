"""The journal, crashed at every byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import JournalDamaged, JournalFull
from gateway.journal import IDLE, MARK, InputLog, Journal, OutputLog
from gateway.records import MAGIC


def outputs(directory: Path, **kwargs: int) -> tuple[OutputLog, list[tuple[int, bytes]]]:
    directory.mkdir(exist_ok=True)
    log = OutputLog(directory, **kwargs)
    return log, [(r.cursor, r.payload) for r in log.recover()]


def inputs(directory: Path, **kwargs: int) -> tuple[InputLog, list[tuple[int, bytes]]]:
    directory.mkdir(exist_ok=True)
    log = InputLog(directory, **kwargs)
    return log, list(log.recover())


def test_log_cut_at_any_byte_keeps_what_was_whole_and_goes_on(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path / "whole")
    ends = [len(MAGIC)]
    (file,) = [tmp_path / "whole" / "outputs-00000000000000000001.log"]
    for payload in (b"first", b"", b"third"):
        log.append(payload, (1, 7), 3)
        ends.append(file.stat().st_size)
    log.close()
    data = file.read_bytes()
    for cut in range(len(data) + 1):
        crashed = tmp_path / f"cut{cut}"
        crashed.mkdir()
        (crashed / file.name).write_bytes(data[:cut])
        log, got = outputs(crashed)
        whole = sum(end <= cut for end in ends[1:])
        assert [payload for _, payload in got] == [b"first", b"", b"third"][:whole]
        assert log.append(b"next") == whole + 1
        log.close()
        _, again = outputs(crashed)
        assert again == [*got, (whole + 1, b"next")]


@settings(max_examples=50, deadline=None)
@given(flip=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_flipped_bit_is_never_read_as_a_message(
    tmp_path_factory: pytest.TempPathFactory, flip: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    log, _ = outputs(folder)
    sent = [b"message %d" % i for i in range(10)]
    for payload in sent:
        log.append(payload)
    log.close()
    (file,) = folder.glob("*.log")
    data = bytearray(file.read_bytes())
    data[flip % len(data)] ^= 1 << bit
    file.write_bytes(data)
    try:
        _, got = outputs(folder)
    except JournalDamaged:
        return
    assert [payload for _, payload in got] == sent[: len(got)]


def test_reading_starts_at_any_cursor_over_many_segments(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path, segment=2000)
    for number in range(1, 301):
        log.append(b"%d" % number * 20, (1, number), 5, request=number, flags=IDLE)
    assert len(list(tmp_path.glob("*.log"))) > 5
    for start in (0, 1, 2, 77, 299, 300, 301, 500):
        got = [record.cursor for record in log.read(start)]
        assert got == list(range(max(start, 1), 301))
    record = next(log.read(77))
    assert record[:6] == (77, 1, 77, 5, 77, IDLE)
    log.close()
    reopened, _ = outputs(tmp_path, segment=2000)
    assert [record.cursor for record in reopened.read(250)] == list(range(250, 301))


def test_oldest_segments_go_but_not_before_a_client_that_reads(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path, segment=1000, keep=5000)
    reader = 10**9
    log.passed = lambda: reader
    for _ in range(100):
        log.append(b"x" * 200)
    assert log.first > 50
    reader = kept = log.last
    for _ in range(40):
        log.append(b"x" * 200)
    assert log.first <= kept + 1
    assert not log.full
    while not log.full:  # then no more should come
        log.append(b"x" * 200)
    assert log.first <= kept + 1
    assert 20_000 <= log._log.size < 21_000
    reader = log.last
    log.trim()
    assert not log.full
    assert log.first > kept + 1


def test_one_large_message_does_not_fill_it(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path, segment=100, keep=1000)
    log.passed = lambda: 0
    log.append(b"x" * 10_000)
    assert not log.full  # it must be taken, or nothing would ever come again
    log.append(b"x")
    assert log.full


def test_cursors_go_on_when_everything_was_pruned(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path, segment=100, keep=1)
    for _ in range(10):
        log.append(b"x" * 200)
    log.close()
    log, _ = outputs(tmp_path)
    assert log.append(b"next") == 11


def test_inputs_stay_until_released_and_are_known_after_a_restart(tmp_path: Path) -> None:
    log, _ = inputs(tmp_path, segment=1000)
    for number in range(1, 31):
        assert log.append(b"%d" % number * 100) == number
    log.void(25)
    log.release(20)
    assert log.get(25) == b""
    assert log.get(30) == b"30" * 100
    assert log.gone(1)
    assert not log.gone(25)
    log.close()
    log, got = inputs(tmp_path, segment=1000)
    assert [number for number, _ in got][-10:] == list(range(21, 31))
    assert log.get(25) == b""
    assert log.get(21) == b"21" * 100
    assert log.append(b"next") == 31


def test_numbers_of_a_checkpoint_are_not_given_out_again(tmp_path: Path) -> None:
    log, _ = inputs(tmp_path)
    log.skip_to(57)
    log.close()
    log, _ = inputs(tmp_path)
    assert log.append(b"x") == 57


def test_full_disk_is_said_and_costs_nothing(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path)
    log.append(b"one")
    full = os.open("/dev/full", os.O_WRONLY)
    log._log._fd, kept = full, log._log._fd
    truncate, os.ftruncate = os.ftruncate, lambda fd, size: None
    try:
        with pytest.raises(JournalFull, match="No space left"):
            log.append(b"two")
    finally:
        os.ftruncate = truncate
    os.close(full)
    log._log._fd = kept
    assert log.append(b"three") == 2
    log.close()
    _, got = outputs(tmp_path)
    assert got == [(1, b"one"), (2, b"three")]


def test_file_that_is_no_journal_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "outputs-00000000000000000001.log").write_bytes(b"something else")
    with pytest.raises(JournalDamaged, match="outputs-00000000000000000001"):
        outputs(tmp_path)


def test_journal_keeps_its_name(tmp_path: Path) -> None:
    first = Journal(tmp_path / "a")
    assert Journal(tmp_path / "a").name == first.name
    assert Journal(tmp_path / "b").name != first.name


def test_marks_are_hidden(tmp_path: Path) -> None:
    log, _ = outputs(tmp_path)
    log.append(b"{}", flags=MARK)
    assert next(log.read(1)).hidden
