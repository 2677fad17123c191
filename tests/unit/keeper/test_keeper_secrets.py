"""A session with secrets in its environment, and machines that are not the operator's."""

from __future__ import annotations

import asyncio
from typing import Any

from keeper_rig import Site

SECRET = {"GITHUB_TOKEN": "hush"}


def wanted(site: Site, **env: dict[str, str]) -> None:
    """The kernels there are, by name, with their environment."""
    kernels = [{"kernel_id": one, "name": "python3", "env": env[one]} for one in env]
    site.channels.ids = list(env)
    site.channels.wanted = lambda: kernels  # type: ignore[method-assign]
    site.keeper._whereto._kernels = site.channels.wanted


def keys_sent(site: Site, name: str) -> list[Any]:
    return [params["key"] for _, params in site.agents[name].calls if "key" in params]


async def test_session_with_secrets_waits_rather_than_go_to_a_volunteer(site: Site) -> None:
    wanted(site, one=SECRET)
    site.join("home", tier="volunteer")
    await site.until(lambda: site.keeper.status.state == "waiting")
    assert "which it may not use" in site.keeper.why()["reasons"]["home"]  # type: ignore[index]
    site.join("ours", tier="on-demand")
    await site.runs_on("ours")
    assert keys_sent(site, "home") == []


async def test_kernel_with_secrets_begins_after_the_session_has_left_the_volunteer(
    site: Site,
) -> None:
    site.join("home", tier="volunteer")
    await site.runs_on("home")
    wanted(site, **{"kernel-1": {}, "kernel-2": SECRET})
    starting = asyncio.create_task(
        site.keeper.kernels.start({"kernel_id": "kernel-2", "name": "python3", "env": SECRET})
    )
    site.join("ours", tier="on-demand")
    await site.runs_on("ours")
    await starting
    assert "kernel-2" in site.agents["ours"].kernels
    assert "kernel-2" not in site.agents["home"].kernels
    assert not any("hush" in str(params) for _, params in site.agents["home"].calls)


async def test_nothing_is_brought_ahead_to_a_volunteer_that_may_not_have_it(site: Site) -> None:
    wanted(site, one=SECRET)
    site.join("ours", tier="on-demand")
    await site.runs_on("ours")
    await site.checkpointed()
    site.join("home", tier="volunteer")
    site.join("spare", tier="on-demand")
    node = site.nodes.get("ours")
    node.suspect = True
    site.keeper.node_changed(node)
    await site.until(lambda: bool(site.agents["spare"].asked("session.stage")))
    assert keys_sent(site, "home") == []
