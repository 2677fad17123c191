"""What `bench checkpoint` measures is what a session goes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionkeeper.agent.offer import offer
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.peers import environment
from sessionkeeper.bench.stand import stand
from sessionkeeper.settings import AgentSettings


async def test_measured_session_comes_back_from_its_store_alone(tmp_path: Path) -> None:
    settings = AgentSettings(
        gateway_url="http://127.0.0.1:1",
        token="none",
        node="bench",
        data=tmp_path / "node",
        runtime="process",
    )
    async with stand(offer(settings), tmp_path / "store", "bench") as one:
        await one.run("x = [1, 2, 3]")
        taken = await one.checkpoint()
        assert 0 < taken.stored == one.stored()
        assert 0 < taken.pause <= taken.committed
        await one.run("x.append(4)")
        await one.kill()
        await one.begin()
        assert await one.run("", "x") == [1, 2, 3]
        with pytest.raises(RunFailed, match="no such name"):
            await one.run("raise ValueError('no such name')")


def test_peers_that_pip_cannot_install_are_not_measured_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null" if name == "PIP_CONFIG_FILE" else "")
    found = environment(tmp_path)
    assert found.python is None
    assert "kishu" in found.why
