"""docs/library.md is run, block by block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "library.md"
BLOCKS = re.findall(r"^```python ?(\w*)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def test_every_block_of_the_guide_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for kind, code in BLOCKS:
        if kind != "criu":  # that one needs an image
            exec(compile(code, str(GUIDE), "exec"), names)
    assert names["other"].numbers() == [1]
    assert len(BLOCKS) == 6
