"""The stored form of directories: reads as written, and hostile bytes are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.files import Entry, Kind
from checkpoint.files.tree import Segment, decode_directory, encode_directory

ids = st.binary(min_size=32, max_size=32)
words = st.binary(min_size=1, max_size=50).filter(lambda word: b"\0" not in word)
common = {
    "mode": st.integers(0, 0o7777),
    "uid": st.integers(0, 2**32 - 1),
    "gid": st.integers(0, 2**32 - 1),
    "mtime_ns": st.integers(-(2**63), 2**63 - 1),
    "link": st.integers(0, 2**64 - 1),
    "rdev": st.integers(0, 2**64 - 1),
    "xattrs": st.lists(st.tuples(words, st.binary()), max_size=3).map(tuple),
}


def _segments(lengths: list[int]) -> tuple[Segment, ...]:
    return tuple(Segment(sum(lengths[:at]), n, bytes(32)) for at, n in enumerate(lengths))


entries = st.one_of(
    st.builds(Entry, kind=st.just(Kind.DIRECTORY), content=ids, **common),
    st.builds(Entry, kind=st.just(Kind.SYMLINK), target=words, **common),
    st.builds(
        Entry,
        kind=st.just(Kind.FILE),
        size=st.just(10_000),
        segments=st.lists(st.integers(0, 1000), max_size=10).map(_segments),
        **common,
    ),
    st.builds(Entry, kind=st.just(Kind.FILE), size=st.just(9), content=ids, **common),
    st.builds(Entry, kind=st.sampled_from([Kind.FIFO, Kind.CHARACTER, Kind.BLOCK]), **common),
)
names = st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, 47}
)


@settings(deadline=None)
@given(st.dictionaries(names, entries, max_size=6))
def test_directory_reads_as_it_was_written(directory: dict[bytes, Entry]) -> None:
    assert decode_directory(encode_directory(sorted(directory.items()))) == directory


@settings(deadline=None)
@given(st.dictionaries(names, entries, max_size=4), st.data())
def test_decoder_refuses_or_reads_but_never_trips(
    directory: dict[bytes, Entry], data: st.DataObject
) -> None:
    encoded = bytearray(encode_directory(sorted(directory.items())))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Damaged, UnknownFormat):
        decode_directory(bytes(encoded[: data.draw(st.integers(0, len(encoded)))]))


@pytest.mark.parametrize(
    "entry",
    [
        Entry(Kind.SYMLINK, 0, 0, 0, 0),
        Entry(Kind.SYMLINK, 0, 0, 0, 0, target=b"a\0b"),
        Entry(Kind.FIFO, 0, 0, 0, 0, xattrs=((b"", b"x"),)),
        Entry(Kind.FIFO, 0, 0, 0, 0, xattrs=((b"a\0b", b"x"),)),
        Entry(Kind.FILE, 0, 0, 0, 0, size=2**63),
    ],
)
def test_what_no_file_system_can_have_is_refused(entry: Entry) -> None:
    with pytest.raises(Damaged):
        decode_directory(encode_directory([(b"name", entry)]))


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc", b"a\0"])
def test_name_that_leads_elsewhere_is_refused(name: bytes) -> None:
    with pytest.raises(Damaged):
        decode_directory(encode_directory([(name, Entry(Kind.FIFO, 0, 0, 0, 0))]))
