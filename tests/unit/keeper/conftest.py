from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from keeper_rig import Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A keeper that runs, with one kernel that is wanted and no node yet."""
    made = Site(tmp_path, "kernel-1")
    await made.begin()
    yield made
    await made.end()
