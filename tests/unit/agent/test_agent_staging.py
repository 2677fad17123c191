"""Images that are brought to a node ahead of a session are never what the session waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from checkpoint.blobs import Memory
from checkpoint.criu import Lazy, encode
from checkpoint.criu.pagemap import LAZY, PAGE, PRESENT, Pagemap, encode_pagemap
from checkpoint.criu.pages import STRETCH
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest, Part
from checkpoint.reader import Reader
from checkpoint.writer import Writer
from sessionkeeper.agent.arrivals import Arrivals
from sessionkeeper.agent.staging import stage

PAGES = STRETCH + 100
LARGE = PAGES * PAGE


class Store(Memory):
    """Calls for haste while the pages are read."""

    def __init__(self, hurried: threading.Event) -> None:
        super().__init__()
        self._hurried = hurried
        self.given = 0

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(key, start, length)
        self.given += len(data)
        if self.given > LARGE // 4:
            self._hurried.set()
        return data


def _dumped(directory: Path) -> Path:
    directory.mkdir()
    columns = ([0x7F00_0000_0000], [PAGES], [PRESENT | LAZY])
    pagemap = Pagemap(1, *(np.array(column, dtype=np.uint64) for column in columns))
    (directory / "pagemap-5.img").write_bytes(encode_pagemap(pagemap))
    (directory / "pages-1.img").write_bytes(np.random.default_rng(1).bytes(LARGE))
    (directory / "core-5.img").write_bytes(b"registers")
    return directory


def _staged(directory: Path, lazy_above: int | None) -> list[str]:
    """What is on the node when haste was called for in the middle."""
    hurried = threading.Event()
    store, keys = Store(hurried), SessionKeys.generate()
    with Writer(store, keys) as writer:
        root = encode(writer, _dumped(directory / "dump"), None).root
        packs = writer.finish()
    manifest = Manifest(1, 1, None, 0.0, Body(packs, None, {"k": Part("criu", root, {})}, {}))
    staged = stage(store, keys, manifest, directory / "staged", lazy_above, hurried)
    assert hurried.is_set()
    assert list(staged.kernels) == [path.name for path in (directory / "staged").iterdir()]
    return list(staged.kernels)


def test_image_that_can_be_restored_lazily_is_given_up_when_it_is_wanted(tmp_path: Path) -> None:
    assert _staged(tmp_path, LARGE // 2) == []


def test_image_that_is_needed_whole_is_fetched_to_the_end(tmp_path: Path) -> None:
    assert _staged(tmp_path, None) == ["k"]


def test_small_image_is_fetched_to_the_end(tmp_path: Path) -> None:
    assert _staged(tmp_path, 2 * LARGE) == ["k"]


def test_image_that_was_brought_and_is_not_restored_is_waited_for_by_nobody(tmp_path: Path) -> None:
    store, keys = Memory(), SessionKeys.generate()
    with Writer(store, keys) as writer:
        root = encode(writer, _dumped(tmp_path / "dump"), None).root
        packs = writer.finish()
    arrivals = Arrivals()
    reader = Reader(store, keys, packs)
    image = arrivals.bring(reader, root, tmp_path / "lazy", None, LARGE // 2)
    assert isinstance(image, Lazy)
    arrivals.no_more()
    assert image.image().root == root
    assert arrivals.over(0.0)
    arrivals.close()


def test_what_is_here_whole_is_restored_as_it_is_unless_it_is_large(tmp_path: Path) -> None:
    store, keys = Memory(), SessionKeys.generate()
    with Writer(store, keys) as writer:
        root = encode(writer, _dumped(tmp_path / "dump"), None).root
        packs = writer.finish()
    manifest = Manifest(1, 1, None, 0.0, Body(packs, None, {"k": Part("criu", root, {})}, {}))
    staged = stage(store, keys, manifest, tmp_path / "staged", None, threading.Event())
    assert staged.kernels["k"].size() == LARGE
    assert staged.has_all_of(manifest, None)
    assert staged.has_all_of(manifest, LARGE)
    assert not staged.has_all_of(manifest, LARGE - 1)
    later = Manifest(2, 1, 1, 0.0, manifest.body)
    assert not staged.has_all_of(later, None)
    del staged.kernels["k"]
    assert not staged.has_all_of(manifest, None)
