"""What is particular to single stores, and how one is found by its URL."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Buffer, LocalDirectory, Memory, open_store, probe
from checkpoint.errors import (
    ConditionNotHonoured,
    StoreFull,
    StoreNotWritable,
    StoreUnavailable,
    UnsupportedStore,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_store_is_found_by_path_or_url(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/a b", f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a b"):
        store = open_store(url)
        store.put("x", b"1")
        assert (tmp_path / "a b" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("url", ["ftp://x/y", "file://elsewhere/x"])
def test_unknown_store_is_refused_with_words(url: str) -> None:
    with pytest.raises(UnsupportedStore) as caught:
        open_store(url)
    assert str(caught.value)
    assert caught.value.hint


def test_store_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreNotWritable, match="file"):
            LocalDirectory(path)


def test_store_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    store = LocalDirectory(tmp_path)
    os.chmod(tmp_path / ".tmp", 0o500)
    if os.geteuid() == 0:  # permissions do not hold root back; a file in the way does
        (tmp_path / ".tmp").rmdir()
        (tmp_path / ".tmp").write_bytes(b"")
    with pytest.raises(StoreNotWritable):
        probe(store)


def test_store_whose_directory_went_away_does_not_answer(tmp_path: Path) -> None:
    store = LocalDirectory(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable) as caught:
        store.create("a", b"x")
    assert caught.value.retryable


@pytest.mark.needs("root")
def test_full_disk_says_so_and_keeps_what_was_there(small_disk: Path) -> None:
    store = LocalDirectory(small_disk)
    store.create("kept", b"k" * (1 << 20))
    with pytest.raises(StoreFull) as caught:
        store.create("too-large", b"x" * (8 << 20))
    assert caught.value.retryable
    assert list(store.list("")) == ["kept"]
    store.create("fits", b"x" * (1 << 20))  # nothing of the failed attempt takes up room
    assert store.get("kept") == b"k" * (1 << 20)


def test_half_an_object_is_never_under_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalDirectory(tmp_path)
    written = os.write

    def write_some_then_fail(fd: int, data: Buffer) -> int:
        if len(data) <= 50:
            raise OSError(errno.EIO, "I/O error")
        return written(fd, memoryview(data)[: len(data) // 2])

    monkeypatch.setattr(os, "write", write_some_then_fail)
    for write in (store.create, store.put):
        with pytest.raises(StoreUnavailable, match="I/O error"):
            write("key", b"x" * 100)
    monkeypatch.undo()
    assert list(store.list("")) == []
    assert os.listdir(tmp_path / ".tmp") == []


def test_leftovers_of_a_crash_are_not_listed(tmp_path: Path) -> None:
    store = LocalDirectory(tmp_path)
    (tmp_path / ".tmp" / "0123").write_bytes(b"half")
    assert list(store.list("")) == []


def test_probe_refuses_a_store_that_overwrites() -> None:
    class Overwriting(Memory):
        def create(self, key: str, data: Buffer) -> None:
            self.put(key, data)

    store = Overwriting()
    with pytest.raises(ConditionNotHonoured, match="overwrites"):
        probe(store)
    assert not store.objects
