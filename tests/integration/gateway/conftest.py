from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gateway_rig import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A gateway, and an agent that is connected to it."""
    # Not tmp_path: a path of a unix socket has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        rig = Rig(Path(folder))
        await rig.agent.dial()
        try:
            yield rig
        finally:
            await rig.close()
