"""A scanned tree in memory: what is stored of it already, and what is not yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from checkpoint.files.key import Key
from checkpoint.files.pending import Pending
from checkpoint.files.tree import (
    INLINE_SEGMENTS,
    Entry,
    Kind,
    Segment,
    encode_directory,
    encode_segments,
)
from checkpoint.objects import StoredObject, store_object
from checkpoint.writer import Writer


class Skipped(NamedTuple):
    """A path (relative to the root) that is not in the tree, and why."""

    path: bytes
    reason: str


@dataclass(eq=False, slots=True)
class Leaf:
    """Anything but a directory.

    `key` is None when it must be read again; `pending` is not stored yet. `listed` are the chunks
    of the list of segments where that is not in the entry.
    """

    entry: Entry
    key: Key | None
    pending: tuple[Pending, ...] = ()
    listed: tuple[bytes, ...] = ()

    def chunks(self) -> Iterator[bytes]:
        """All chunks it needs."""
        for segment in self.entry.segments:
            yield segment.chunk
        yield from self.listed

    def store(self, writer: Writer) -> None:
        """Store what is pending and the list of segments."""
        if self.entry.kind is not Kind.FILE:
            return
        if self.pending:
            added = [Segment(p.offset, p.length, writer.add(p.read())) for p in self.pending]
            segments = tuple(sorted((*self.entry.segments, *added)))
            self.entry = replace(self.entry, segments=segments, content=None)
            self.pending, self.listed = (), ()
        segments = self.entry.segments
        if len(segments) > INLINE_SEGMENTS and not (self.listed and writer.holds(self.listed)):
            stored = store_object(writer, encode_segments(segments))
            self.entry = self.entry.with_content(stored.id)
            self.listed = stored.chunks


@dataclass(eq=False, slots=True)
class Directory:
    """A directory and what is in it, sorted by name. `stored` is its object once it is."""

    entry: Entry
    children: dict[bytes, Leaf | Directory]
    stored: StoredObject | None = None

    def leaves(self) -> Iterator[Leaf]:
        """All that is below it."""
        for child in self.children.values():
            yield from (child,) if isinstance(child, Leaf) else child.leaves()

    def store(self, writer: Writer) -> None:
        for child in self.children.values():
            child.store(writer)
            if isinstance(child, Leaf):
                writer.keep(child.chunks())
        if self.stored is not None and writer.holds(self.stored.chunks):
            writer.keep(self.stored.chunks)
            return
        entries = ((name, _stored_entry(child)) for name, child in self.children.items())
        self.stored = store_object(writer, encode_directory(entries))


def _stored_entry(node: Leaf | Directory) -> Entry:
    if isinstance(node, Leaf):
        return node.entry
    assert node.stored is not None
    return node.entry.with_content(node.stored.id)


@dataclass(eq=False)
class Tree:
    """A scanned directory.

    `skipped` is what could not be saved, `ignored` what `.sessionkeeperignore` leaves out (of a
    directory its own path alone), `torn` are files that changed whenever they were read: their
    content may be of several moments. `read_bytes` were read from changed files, `copied_bytes` of
    them kept.
    """

    root: Directory
    skipped: list[Skipped]
    ignored: list[bytes] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)
    read_bytes: int = 0
    copied_bytes: int = 0

    def store(self, writer: Writer) -> bytes:
        """Make the tree part of the writer's checkpoint:

        its root chunk. Raises what the writer does.
        """
        self.root.store(writer)
        return store_object(writer, encode_directory([(b"", _stored_entry(self.root))])).id
