"""An archive has every file as it is, and is written with little memory."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.archive import BUFFER, Format, Member, write

NAMES = st.binary(min_size=1, max_size=40).map(
    lambda name: os.fsdecode(bytes(byte for byte in name if byte not in b"/\0") or b"x")
)


def file(path: str, content: bytes, mode: int = 0o644, piece: int = 7) -> Member:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(content), piece):
            yield content[start : start + piece]

    return Member(path, "file", mode, 1e9, len(content), "", pieces)


def written(kind: Format, *members: Member) -> bytes:
    taken: list[bytes] = []
    write(kind, members, taken.append)
    return b"".join(taken)


TREE = (
    Member("s", "directory", 0o750, 1e9),
    file("s/run.sh", b"#!/bin/sh\n", 0o755),
    Member("s/there", "link", 0o777, 1e9, target="run.sh"),
    file("s/empty", b""),
    file("s/große Datei", b"\xff" * 100_000, piece=4096),
)


def test_a_tar_unpacks_to_the_same_files(tmp_path: Path) -> None:
    again = Member("s/again", "same", 0o755, 1e9, target="s/run.sh")
    with tarfile.open(fileobj=io.BytesIO(written("tar.gz", *TREE, again))) as archive:
        archive.extractall(tmp_path)
    there = tmp_path / "s"
    assert (there.stat().st_mode & 0o777, (there / "run.sh").stat().st_mode & 0o777) == (
        0o750,
        0o755,
    )
    assert os.readlink(there / "there") == "run.sh"
    assert (there / "again").samefile(there / "run.sh")
    assert (there / "große Datei").read_bytes() == b"\xff" * 100_000
    assert (there / "empty").read_bytes() == b""
    assert (there / "run.sh").stat().st_mtime == 1e9


def test_a_zip_has_the_same_files_with_links_and_permissions() -> None:
    with zipfile.ZipFile(io.BytesIO(written("zip", *TREE))) as archive:
        assert archive.testzip() is None
        assert archive.read("s/große Datei") == b"\xff" * 100_000
        assert archive.getinfo("s/run.sh").external_attr >> 16 == 0o100755
        assert archive.getinfo("s/there").external_attr >> 16 == 0o120777
        assert archive.read("s/there") == b"run.sh"
        assert archive.getinfo("s/").is_dir()


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=6), st.integers(1, 300))
def test_names_that_are_no_text_come_back_from_a_tar(files: dict[str, bytes], piece: int) -> None:
    data = written(
        "tar.gz", *(file(f"s/{name}", found, piece=piece) for name, found in files.items())
    )
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        found = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    assert found == {f"s/{name}": content for name, content in files.items()}


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_what_is_large_goes_through_in_pieces(kind: Format) -> None:
    largest = taken = 0

    def take(data: bytes) -> None:
        nonlocal largest, taken
        largest, taken = max(largest, len(data)), taken + len(data)

    noise = os.urandom(1 << 20)
    many = Member("big", "file", 0o644, 1e9, 16 << 20, "", lambda: (noise for _ in range(16)))
    write(kind, [many], take)
    assert taken > 16 << 20
    assert largest < BUFFER + (2 << 20)


def test_a_file_that_is_shorter_than_was_said_is_no_archive() -> None:
    short = Member("s/short", "file", 0o644, 1e9, 10, "", lambda: iter([b"123"]))
    with pytest.raises(OSError, match="end of data"):
        written("tar.gz", short)
