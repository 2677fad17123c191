"""docs/library.md is run, block by block."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint.criu.pagemap import PRESENT, Pagemap, encode_pagemap

PAGE = 4096
GUIDE = Path(__file__).parents[3] / "docs" / "library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def _dump(directory: Path) -> None:
    """As CRIU writes it: eight pages of one process."""
    directory.mkdir()
    at, pages, flags = np.array([[0x7F00_0000_0000], [8], [PRESENT]], dtype=np.uint64)
    (directory / "pagemap-5.img").write_bytes(encode_pagemap(Pagemap(1, at, pages, flags)))
    (directory / "pages-1.img").write_bytes(random.Random(1).randbytes(8 * PAGE))
    (directory / "core-5.img").write_bytes(b"registers")


def test_every_block_of_the_guide_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _dump(tmp_path / "dump")
    names: dict[str, Any] = {}
    for code in BLOCKS:
        exec(compile(code, str(GUIDE), "exec"), names)
    assert len(BLOCKS) == 6
    assert names["other"].numbers() == [1]
    assert (tmp_path / "restored/pages-1.img").read_bytes() == random.Random(1).randbytes(8 * PAGE)
