"""One directory of a stored tree, put somewhere by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import FileTreeError
from checkpoint.files import materialize, scan
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)


def test_one_directory_of_a_tree_can_be_had_alone(tmp_path: Path) -> None:
    deep = tmp_path / "tree/home/deep"
    deep.mkdir(parents=True)
    (deep / "file").write_text("content")
    (tmp_path / "tree/link").symlink_to("home")
    (tmp_path / "tree/other").write_text("not this")
    store = Memory()
    with Writer(store, KEYS) as writer:
        root = scan(tmp_path / "tree", None, writer).store(writer)
        packs = writer.finish()
    with Reader(store, KEYS, packs) as reader:
        materialize(reader, root, tmp_path / "home", b"home")
        assert os.listdir(tmp_path / "home") == ["deep"]
        materialize(reader, root, tmp_path / "deep", b"home/deep")
        assert (tmp_path / "deep/file").read_text() == "content"
        for missing in (b"none", b"home/none", b"other", b"link", b"home/.."):
            with pytest.raises(FileTreeError, match="The tree has no directory"):
                materialize(reader, root, tmp_path / "missing", missing)
