"""What processes remember of their open files' identity, carried over to a place with other inodes.

A file's identity is its device and inode number. On another node the same file has another one,
and a process that compares finds that its file was replaced: SQLite then refuses to write
("attempt to write a readonly database", SQLITE_READONLY_DBMOVED), and would take a second
connection to one database for one to another, which loses its locks (`os_unix.c`, `struct
unixFileId`). HDF5 compares the same two numbers. Both keep them side by side, as `struct stat`
has them: two u64.

So with each image goes the list of files that the processes have open (`note_open_files`), and
where in their memory the identities stand: `find_marks` looks at pages that changed since the
checkpoint before, as nothing else can hold the identity of a file opened since. At restore
`Materialized.refer_to` writes the new identities there.

The list is a file in the directory of CRIU images, which CRIU does not look at: `OPEN_FILES`,
JSON: `version`, `files` (path, device and inode of each), `marks` (pagemap file name, address of
the 16 bytes, number of the file).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from checkpoint.criu.pagemap import PAGE, U8, U64, Mask
from checkpoint.errors import Damaged, InvalidImage, UnknownFormat

OPEN_FILES = "open-files.json"
VERSION = 1
WORD = 8
GONE = (0, 0)
"""The identity of a file that is not there: no file has inode 0."""

_WORDS = PAGE // WORD
_BLOCK = 256  # pages; what is compared stays in the processor's cache
_MAGICS = 8  # bytes, at the start of each of CRIU's files
_REG = 1  # enum fd_types in CRIU's images/fdinfo.proto


@dataclass(frozen=True)
class OpenFile:
    """A regular file that a process has open, and the identity it had when that was noted."""

    path: str
    device: int
    inode: int


@dataclass(frozen=True)
class Mark:
    """The identity of `file` (a number in the list) stands at `address` of the memory `table`."""

    table: str
    address: int
    file: int


@dataclass(frozen=True)
class OpenFiles:
    """The open files of a process tree, and where its memory has their identities."""

    files: tuple[OpenFile, ...] = ()
    marks: tuple[Mark, ...] = ()

    def encode(self) -> bytes:
        """As JSON."""
        fields = {
            "version": VERSION,
            "files": [[file.path, file.device, file.inode] for file in self.files],
            "marks": [[mark.table, mark.address, mark.file] for mark in self.marks],
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def read(cls, directory: Path) -> OpenFiles:
        """The list in `directory`; empty where none was noted. Raises as `decode`."""
        try:
            data = (directory / OPEN_FILES).read_bytes()
        except FileNotFoundError:
            return cls()
        return cls.decode(data)

    @classmethod
    def decode(cls, data: bytes) -> OpenFiles:
        """Inverse of `encode`. Raises `Damaged`, `UnknownFormat`."""
        try:
            fields = json.loads(data)
            if fields["version"] > VERSION:
                raise UnknownFormat("The list of open files", fields["version"], VERSION)
            files = tuple(OpenFile(str(p), int(d), int(i)) for p, d, i in fields["files"])
            marks = tuple(Mark(str(t), int(a), int(f)) for t, a, f in fields["marks"])
            if not all(0 <= mark.file < len(files) for mark in marks):
                raise ValueError
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise Damaged("The list of open files", "its form is not known") from None
        return cls(files, marks)


def note_open_files(directory: str | os.PathLike[str], root: str | os.PathLike[str]) -> None:
    """Add to the dump in `directory` the list of regular files that its processes have open.

    `root` is what they see as `/`. Call it before they go on, while each path still leads to the
    file they have. Files that are not below `root` (deleted, or in a mount of the container's own)
    are left out. Raises `InvalidImage` and `OSError`.
    """
    directory = Path(directory)
    files = []
    for path in sorted({path for _, path in described_files(directory)}):
        identity = identity_below(root, path)
        if identity is not None:
            files.append(OpenFile(os.fsdecode(path), *identity))
    (directory / OPEN_FILES).write_bytes(OpenFiles(tuple(files)).encode())


def identity_below(root: str | os.PathLike[str], path: bytes) -> tuple[int, int] | None:
    """Device and inode number of the regular file `path` as seen from `root`, or None.

    No link is followed, so that nothing in the tree leads out of it; a path that a process has
    open has none (`proc(5)`, `/proc/pid/fd`).
    """
    *parents, name = [part for part in path.split(b"/") if part] or [b""]
    if b".." in (*parents, name) or b"\0" in path:
        return None
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(root, flags)
    try:
        for part in parents:
            inner = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = inner
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(at)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def find_marks(pages: U64, content: U8, changed: Mask, files: Iterable[OpenFile]) -> dict[int, int]:
    """Where `changed` pages have the identity of one of `files`: address to its number.

    `pages` are page numbers, ascending, `content` their bytes. Takes about 0.07 s for 1 GB of
    changed pages.
    """
    numbers = {(file.device, file.inode): number for number, file in enumerate(files)}
    words = content.view("<u8")
    found = {}
    for device in {device for device, _ in numbers}:
        inodes = np.array([i for d, i in numbers if d == device], dtype=np.uint64)
        for at in _pairs(pages, words, changed, np.uint64(device), inodes):
            page, word = divmod(at, _WORDS)
            address = int(pages[page]) * PAGE + word * WORD
            found[address] = numbers[device, int(words[at + 1])]
    return found


def open_now(pids: Iterable[int]) -> frozenset[tuple[int, int]]:
    """The identities of the regular files that processes have open."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(status.st_mode):
                        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def may_hold(content: U8, identities: Iterable[tuple[int, int]]) -> Mask:
    """Which pages have one of the identities in them, or may have one half of it."""
    rows = content.view("<u8").reshape(-1, _WORDS)
    held = np.zeros(len(rows), dtype=np.bool_)
    pairs = set(identities)
    for device in {device for device, _ in pairs}:
        inodes = np.array([i for d, i in pairs if d == device], dtype=np.uint64)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            same = block == np.uint64(device)
            if same.any():  # to find out where takes longer, and most often there is none
                row, word = np.nonzero(same)
                last = word == _WORDS - 1
                inside = np.isin(block[row[~last], word[~last] + 1], inodes)
                held[start + row[last]] = held[start + row[~last][inside]] = True
        held |= np.isin(rows[:, 0], inodes)
    return held


def marks_still(
    pages: U64, content: U8, addresses: Iterable[int], files: Iterable[OpenFile]
) -> dict[int, int]:
    """Those of `addresses` that (still) have the identity of one of `files`, as `find_marks`."""
    numbers = {(file.device, file.inode): number for number, file in enumerate(files)}
    words = content.view("<u8")
    found = {}
    for address in addresses:
        places = [word_at(pages, address), word_at(pages, address + WORD)]
        identity = tuple(-1 if at is None else int(words[at]) for at in places)
        if identity in numbers:
            found[address] = numbers[identity]
    return found


def word_at(pages: U64, address: int) -> int | None:
    """Which u64 of the content of `pages` is at `address`; None if the page is not among them."""
    page, offset = divmod(address, PAGE)
    at = int(np.searchsorted(pages, np.uint64(page)))
    if at == len(pages) or int(pages[at]) != page:
        return None
    return at * _WORDS + offset // WORD


def _pairs(pages: U64, words: U64, changed: Mask, device: np.uint64, inodes: U64) -> Iterator[int]:
    """Where in `words` `device` is followed by one of `inodes`."""
    rows = words.reshape(-1, _WORDS)
    looked_at = np.flatnonzero(changed)
    for start in range(0, len(looked_at), _BLOCK):
        block = looked_at[start : start + _BLOCK]
        first, last = int(block[0]), int(block[-1]) + 1
        part = rows[first:last] if last - first == len(block) else rows[block]
        flat = part.reshape(-1)
        hits = np.flatnonzero(flat[:-1] == device)
        hits = hits[(hits % _WORDS != _WORDS - 1) & np.isin(flat[hits + 1], inodes)]
        yield from (block[hits // _WORDS] * _WORDS + hits % _WORDS).tolist()
    # Across the border of two pages.
    neighbours = (pages[1:] == pages[:-1] + np.uint64(1)) & (changed[1:] | changed[:-1])
    before = np.flatnonzero(neighbours)
    before = before[rows[before, -1] == device]
    before = before[np.isin(rows[before + 1, 0], inodes)]
    yield from (before * _WORDS + _WORDS - 1).tolist()


def described_files(directory: Path) -> set[tuple[int, bytes]]:
    """The descriptors of regular files in a dump: number, and path as the process sees it.

    Raises `InvalidImage`.
    """
    try:
        opened = {
            (descriptor[4], descriptor[1])
            for path in directory.glob("fdinfo-*.img")
            for _, descriptor in image_messages(path)
            if descriptor.get(3) == _REG
        }
        names = {
            file[2]: message_fields(file[3])[6]
            for _, file in image_messages(directory / "files.img")
            if file.get(1) == _REG
        }
    except (LookupError, TypeError):
        raise InvalidImage(
            "The dump's list of open files is in a form that is not known."
        ) from None
    return {
        (fd, name)
        for fd, number in opened
        if isinstance(fd, int) and isinstance(name := names.get(number), bytes)
    }


def image_messages(path: Path) -> Iterator[tuple[int, dict[int, int | bytes]]]:
    """The messages of a CRIU image (magics, then u32 length and protobuf each), and where they
    are.
    """
    data = path.read_bytes()
    at = _MAGICS
    try:
        while at < len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            at += 4
            yield at, message_fields(data[at : at + length])
            at += length
    except (IndexError, KeyError, TypeError):
        raise InvalidImage(f"{path.name} is cut short, or in a form that is not known.") from None


def message_fields(data: int | bytes) -> dict[int, int | bytes]:
    """The integer and byte fields of one protobuf message, the last of each number."""
    if isinstance(data, int):
        raise TypeError
    fields: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                fields[tag >> 3], at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(data, at)
                fields[tag >> 3] = data[at : at + length]
                at += length
            case 5:
                at += 4
            case _:
                raise IndexError
    if at != len(data):
        raise IndexError
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:  # protobuf has no longer ones
            raise IndexError
