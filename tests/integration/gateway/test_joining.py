"""Machines that join a gateway: how they get in, how they leave, and who is kept out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from joining_rig import Machine, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("joining")).start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(site: Site) -> Machine:
    """A machine that joined, and is there."""
    return site.machine("home").join(site.token())


async def test_machine_behind_a_proxy_joins_with_one_command_and_runs_kernels(
    site: Site, home: Machine
) -> None:
    node = site.nodes()["home"]
    assert (node["state"], node["tier"], node["runtime"]) == ("ready", "volunteer", "process")
    assert "plain processes, WITHOUT a wall" in home.said
    before = site.proxy.tunnels
    async with site.kernel() as kernel:
        assert await kernel.ask("x = 6; x * 7") == "42"
        saved = await site.until(lambda status: status["checkpoint"] is not None)
    assert saved["node"] == "home"
    assert site.proxy.tunnels > before, "what a checkpoint has goes through the proxy too"


def test_token_that_was_used_lets_nobody_else_in(site: Site, home: Machine) -> None:
    token = site.token()
    site.machine("early").join(token, "--cores", "1", "--memory", "1G").signal(signal.SIGTERM)
    assert site.machine("early").end() == 0
    late = site.machine("late").run("join", site.place, "--token", token, "--name", "late")
    assert late.returncode == 17
    assert "none that is good now" in late.stderr
    assert "node token create" in late.stderr
    assert site.nodes()["early"]["memory"] == 1 << 30
    assert site.nodes()["early"]["cores"] == 1
    assert "late" not in site.nodes()


def test_its_key_and_its_name_are_known_after_the_gateway_was_started_again(
    site: Site, home: Machine
) -> None:
    site.stop()
    site.start()
    home.until("has let this node in")
    assert site.nodes()["home"]["state"] == "ready"


async def test_node_that_stood_still_is_over_and_ends_its_kernels(
    site: Site, home: Machine
) -> None:
    """Its clock goes on while it stands still: when it wakes its lease has ended."""
    async with site.kernel() as kernel:
        await kernel.ask("y = 1")
        first = await site.until(lambda s: s["state"] == "running" and s["checkpoint"] is not None)
        assert home.kernels()
        home.signal(signal.SIGSTOP)
        other = site.machine("other")
        await asyncio.to_thread(other.join, site.token())
        there = await site.until(lambda s: s["state"] == "running" and s["node"] == "other")
        assert there["epoch"] > first["epoch"]
        assert await kernel.ask("y") == "1"
        home.signal(signal.SIGCONT)
        await asyncio.to_thread(home.until, "the lease has ended")
        await asyncio.to_thread(home.until, "has let this node in")
        assert await kernel.ask("y + 1") == "2"
        assert site.nodes()["home"]["sessions"] == []


async def test_node_that_leaves_is_drained_first_and_forgotten(site: Site, home: Machine) -> None:
    other = site.machine("other")
    async with site.kernel() as kernel:
        await kernel.ask("z = 5")
        now = await site.until(lambda s: s["state"] == "running")
        there = {"home": home, "other": other}[now["node"]]
        left = await asyncio.to_thread(there.run, "leave")
        assert left.returncode == 0, left.stderr
        assert there.end() == 0
        moved = f"moved from {there.name}"
        await site.until(lambda s: any(moved in event["text"] for event in s["events"]))
        assert await kernel.ask("z") == "5"
    assert there.name not in [n for n, one in site.nodes().items() if one["state"] != "lost"]
    assert not list((there.home).glob("*.json"))
    assert not there.kernels()
    again = there.run("join")
    assert again.returncode == 2
    assert "has not joined a gateway yet" in again.stderr


async def test_revoked_node_is_refused_with_words_and_its_session_goes_elsewhere(
    site: Site,
) -> None:
    bad = site.machine("bad")
    async with site.kernel() as kernel:
        await kernel.ask("w = 3")
        now = await site.until(lambda s: s["state"] == "running" and s["checkpoint"] is not None)
        had = site.machine(now["node"])
        await asyncio.to_thread(bad.join, site.token())
        done = site.operate("POST", f"nodes/{had.name}/revoke")
        assert done["sessions"] == ["default"]
        await site.until(lambda s: s["state"] == "running" and s["node"] == "bad")
        assert await kernel.ask("w") == "3"
    assert await asyncio.to_thread(had.end) == 17
    assert f"operator has revoked {had.name}" in had.said
    assert not had.kernels()
    again = had.run("join", "--runtime", "process")
    assert again.returncode == 17
    assert site.nodes()[had.name]["state"] == "revoked"


def test_gateway_without_tls_is_refused_unless_said(site: Site) -> None:
    far = site.machine("far")
    refused = far.run("join", "http://gateway.invalid:1", "--token", "x")
    assert refused.returncode == 2
    assert "without TLS" in refused.stderr
    assert far.run("join", "https://127.0.0.1:1", "--token", "x").returncode == 69
