"""A notebook computes on a pod, and goes on whatever becomes of that. One after the other, in one
session: on a cluster for tests, or on a real one (docs/kubernetes.md).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from cluster.installed import Gateway, gateway
from system.client import KernelClient

from gateway.dial import AgentLink
from gateway.errors import GatewayError
from sessionkeeper.compute.tokens import token_for

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATIENCE = 90.0 if not os.environ.get("KUBECONFIG") else 600.0


class Notebook:
    def __init__(self, gateway: Gateway, kernel: KernelClient) -> None:
        self.gateway = gateway
        self.cluster = gateway.cluster
        self.kernel = kernel

    async def runs(self, code: str) -> str:
        cell = await self.kernel.run(code, PATIENCE)
        assert cell.reply is not None
        assert cell.reply["status"] == "ok", cell
        return cell.shown.strip()

    async def until(self, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            while not condition(status := await self.gateway.status()):
                await asyncio.sleep(0.1)
        return status

    async def saved(self) -> None:
        """A checkpoint has what ran so far."""
        before = (await self.gateway.status())["checkpoint"] or {"number": -1}
        await self.runs("kept = True")
        await self.until(lambda now: (now["checkpoint"] or before)["number"] > before["number"])

    async def where(self, other_than: str = "") -> str:
        """The node that it runs on, as soon as it is another one."""
        now = await self.until(lambda now: now["state"] == "running" and now["node"] != other_than)
        return str(now["node"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notebook(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Notebook]:
    async with gateway(tmp_path_factory.mktemp("cluster")) as found:
        token = await found.begin()
        kernel = await found.kernel(token)
        await kernel.open()
        yield Notebook(found, kernel)
        await kernel.close()
        await found.ask("DELETE", "/api/sessionkeeper/sessions/on-pods")


async def test_a_notebook_computes_on_a_pod_of_its_own(notebook: Notebook) -> None:
    assert await notebook.runs("x = 41; x + 1") == "42"
    assert list(await notebook.cluster.pods()) == [await notebook.where()]


@pytest.mark.own_cluster
async def test_who_has_a_pods_token_is_that_node_and_no_other(notebook: Notebook) -> None:
    secret = notebook.gateway.agent_token
    assert secret
    token, hello = token_for(secret, "sk-on-pods-00000000-1"), {"node": "sk-other-00000000-1"}
    with pytest.raises(GatewayError, match="says that it is sk-other"):
        await AgentLink.connect(notebook.gateway.url, token, hello, on_call=_never)
    with pytest.raises(GatewayError, match="refused"):
        await AgentLink.connect(notebook.gateway.url, f"{token}0", hello, on_call=_never)


async def _never(method: str, params: dict[str, Any]) -> None:
    raise AssertionError(method)


async def test_its_pod_is_deleted_by_force_and_it_goes_on(notebook: Notebook) -> None:
    await notebook.runs("x = 42")
    await notebook.saved()
    before = await notebook.where()
    await notebook.cluster.delete(before)
    await notebook.where(other_than=before)
    assert await notebook.runs("x") == "42"


async def test_its_node_is_drained_and_it_moves_without_losing_anything(notebook: Notebook) -> None:
    await notebook.runs("x = 43")
    before = await notebook.where()
    machine = (await notebook.cluster.pods())[before]
    await notebook.cluster.drain(machine)
    after = await notebook.where(other_than=before)
    assert await notebook.runs("x") == "43"
    assert (await notebook.cluster.pods())[after] != machine
    events = [one["text"] for one in (await notebook.gateway.status())["events"]]
    assert any(f"moved from {before}" in text for text in events), events
    await notebook.cluster.take_back(machine)


@pytest.mark.own_cluster
async def test_its_gateway_is_started_again_and_finds_its_pod(notebook: Notebook) -> None:
    assert notebook.gateway.restart is not None
    await notebook.runs("x = 44")
    before = await notebook.cluster.pods()
    await notebook.gateway.restart()
    await notebook.kernel.close()
    await notebook.kernel.open()
    assert await notebook.runs("x") == "44"
    assert await notebook.where() in before
    assert (await notebook.cluster.pods()).keys() <= before.keys()


async def test_its_node_vanishes_and_it_goes_on(notebook: Notebook) -> None:
    if os.environ.get("KUBECONFIG") and not os.environ.get("SESSIONKEEPER_TEST_VANISH"):
        pytest.fail("SESSIONKEEPER_TEST_VANISH does not say how a machine vanishes", pytrace=False)
    await notebook.runs("x = 45")
    await notebook.saved()
    before = await notebook.where()
    await notebook.cluster.vanish((await notebook.cluster.pods())[before])
    await notebook.where(other_than=before)
    assert await notebook.runs("x") == "45"


async def test_what_hibernates_leaves_no_pod_and_the_next_cell_brings_it_back(
    notebook: Notebook,
) -> None:
    before = await notebook.where()
    await notebook.gateway.ask("POST", "/api/sessionkeeper/sessions/on-pods/hibernate")
    async with asyncio.timeout(PATIENCE):
        while before in await notebook.cluster.pods():
            await asyncio.sleep(0.1)
    assert await notebook.runs("x") == "45"
    assert await notebook.where() != before
