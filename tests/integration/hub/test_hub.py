"""A real JupyterHub 6 and its proxy, whose spawner is ours: what the hub sees of what is lost."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import jupyterhub_idle_culler as culler
import pytest
import pytest_asyncio
from system.client import KernelClient
from system.fixtures import FAILED
from system.hub import Hub, Server, Visitor
from system.running import System

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.container,
    pytest.mark.needs("hub", "http-proxy"),
]

log = logging.getLogger(__name__)

# BinderHub's servers have no authentication but their token; here they do not come back.
BINDER = """
def binder(spawner):
    spawner.auth_enabled = not spawner.user.name.startswith("binder")
    spawner.cors_allow_origin = "https://thebe.example"
    spawner.on_stop = "hibernate" if spawner.auth_enabled else "delete"
c.Spawner.pre_spawn_hook = binder
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(shared_systems: list[System], tmp_path_factory) -> AsyncIterator[Hub]:
    place = tmp_path_factory.mktemp("hub")
    if not shared_systems:
        shared_systems.append(System(place / "state").start())
    await shared_systems[0].heal()
    hub = Hub(shared_systems[0], place / "hub", more=BINDER)
    try:
        yield await hub.start()
        await hub.forget()
    finally:
        hub.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def evidence(request, hub: Hub, artifacts: Path) -> AsyncIterator[None]:
    await hub.system.heal()
    yield
    if request.node.stash.get(FAILED, False):
        hub.keep(artifacts)
        hub.system.keep(artifacts)
    else:
        artifacts.rmdir()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(hub: Hub) -> Server:
    return await Server(hub, "ann").spawn()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(ann: Server) -> AsyncIterator[KernelClient]:
    kernel = await ann.kernel()
    await kernel.ask("x = 41")
    await ann.until(lambda said: said["session"]["checkpoint"])
    yield kernel
    await kernel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def image(hub: Hub) -> str:
    return await hub.image("binder-repo:abc")


async def computes(ann: Server, kernel: KernelClient) -> bool:
    """A page that is opened now, of the same URL, token and kernel."""
    client = await ann.client(kernel.id).open()
    try:
        return await client.ask("print(x + 1)") == "42"
    finally:
        await client.close()


async def test_hub_never_notices_a_lost_node(hub: Hub, ann: Server, kernel: KernelClient):
    before = await ann.model()
    async with Visitor(ann) as visitor:
        await hub.system.kill((await ann.said())["session"]["node"])
        assert await kernel.ask("print(x + 1)") == "42"
    assert set(visitor.statuses) == {200}
    after = await ann.model()
    assert before
    assert after
    assert (after["url"], after["started"]) == (before["url"], before["started"])
    assert [one["id"] for one in await ann.call("GET", "api/kernels")] == [kernel.id]


async def test_lost_ui_server_is_waited_for_and_not_refused(ann: Server, kernel: KernelClient):
    lost = ann.ui()
    os.kill(lost, signal.SIGKILL)
    assert await ann.status() == 200
    assert ann.ui() != lost
    assert await computes(ann, kernel)


async def test_hub_that_was_killed_finds_its_servers(hub: Hub, ann: Server, kernel: KernelClient):
    hub.kill_hub()
    assert await ann.status() == 200
    server = ann.ui()
    await hub.start_hub()
    model = await ann.model()
    assert model
    assert model["ready"]
    assert ann.ui() == server
    assert await computes(ann, kernel)


async def test_lost_attendant_is_mended_by_the_poll_of_a_new_hub(ann: Server, kernel: KernelClient):
    url, lost = ann.address(), ann.attendant()
    os.kill(lost, signal.SIGKILL)
    await ann.answers()
    assert ann.attendant() != lost
    assert ann.address() == url
    assert await computes(ann, kernel)


async def test_busy_kernel_without_a_page_is_activity_and_an_idle_one_hibernates(hub: Hub):
    cat = await Server(hub, "cat").spawn()
    client = await cat.kernel()
    assert await client.ask("import os; print(os.environ['JUPYTERHUB_USER'])") == "cat"
    await client.send("x = 41\nwhile not os.path.exists('enough'): pass")
    await cat.until(lambda said: any(k["execution_state"] == "busy" for k in said["kernels"]))
    await client.close()
    seen = await cat.last_activity()
    for _ in range(3):  # in silence: nobody sends or gets anything
        seen = await cat.active_after(seen)
    await cat.call("PUT", "api/contents/enough", {"type": "file", "format": "text", "content": ""})
    await cat.until(lambda said: all(k["execution_state"] == "idle" for k in said["kernels"]))

    def idle(inactive, inactive_limit, server) -> bool:
        return "/cat/" in server["url"] and inactive.total_seconds() > inactive_limit

    while await cat.model():
        await culler.cull_idle(
            f"{hub.url}/hub/api", hub.token, inactive_limit=2, logger=log, cull_arbiter=idle
        )
    said = await cat.until(lambda said: said["session"]["state"] == "hibernated")
    assert said["session"]["node"] is None
    assert not cat.runs()

    session = cat.session()
    await cat.spawn()
    assert cat.session() == session
    texts = [event["message"] for event in cat.events]
    assert any(text.startswith("Restoring checkpoint") for text in texts), texts
    assert any(text.startswith("Running on node-") for text in texts), texts
    assert await computes(cat, client)


async def test_end_by_the_user_is_final_and_the_session_hibernates(hub: Hub):
    dan = await Server(hub, "dan").spawn()
    status, _ = await hub.ask("POST", f"{dan.path}api/shutdown", {}, dan.token)
    assert status == 200
    await dan.gone()
    await dan.until(lambda said: said["session"]["state"] == "hibernated")
    assert not dan.runs()


async def sessions(hub: Hub) -> set[str]:
    listed = await hub.system.call("GET", "/api/sessionkeeper/sessions", server="gateway")
    return {one["name"] for one in listed["sessions"]}


async def test_each_image_has_its_session_and_all_go_with_the_user(hub: Hub, image: str):
    eve = await Server(hub, "eve", "lab").spawn()
    first = eve.session()
    await eve.stop()
    await eve.spawn({"image": image})
    second = eve.session()
    assert second != first
    said = (await eve.said())["session"]
    assert (said["image"].partition("@")[0], said["owner"]) == (image, "eve")
    await eve.stop()
    await eve.rename("desk")
    assert {first, second} <= await sessions(hub)
    await eve.delete_user()
    assert not {first, second} & await sessions(hub)


async def test_binder_gets_what_it_asks_for(hub: Hub, image: str):
    options = {
        "image": image,
        "repo_url": "https://github.com/org/repo",
        "token": "made-by-binderhub",
        "binder_ref_url": "https://github.com/org/repo/tree/abc",
        "binder_launch_host": "https://mybinder.example/",
        "binder_request": "v2/gh/org/repo/HEAD",
        "binder_persistent_request": "v2/gh/org/repo/abc",
    }
    server = Server(hub, "binder-repo-1")
    await server.spawn(options)
    environ = server.environ()
    assert environ["BINDER_REPO_URL"] == options["repo_url"]
    for name in ("binder_ref_url", "binder_launch_host", "binder_request"):
        assert environ[name.upper()] == options[name]
    assert environ["BINDER_PERSISTENT_REQUEST"] == options["binder_persistent_request"]
    said = (await server.said())["session"]
    assert said["image"].partition("@")[0] == image
    assert ["BINDER_REQUEST", options["binder_request"]] in said["environment"]

    answers = {
        token: (await hub.ask("GET", f"{server.path}api/kernels", None, token))[0]
        for token in (options["token"], "another", hub.token)
    }
    assert answers == {options["token"]: 200, "another": 403, hub.token: 403}
    headers = await hub.headers(f"{server.path}api/status", options["token"])
    assert headers["Access-Control-Allow-Origin"] == "https://thebe.example"
    # BinderHub does not know of activity, but the culler does.
    await server.active_after(await server.last_activity())
    session = server.session()
    await server.stop()
    assert session not in await sessions(hub)


async def test_image_that_nobody_has_is_refused_by_name(hub: Hub):
    fay = Server(hub, "fay")
    with pytest.raises(AssertionError, match="never-built:1"):
        await fay.spawn({"image": "never-built:1"})
    assert await fay.model() is None


async def test_binder_without_image_or_token_is_refused_with_words(hub: Hub):
    server = Server(hub, "binder-repo-2")
    await hub.ask("POST", "/hub/api/users/binder-repo-2")
    status, content = await hub.ask("POST", "/hub/api/users/binder-repo-2/server", {})
    assert status == 400
    assert json.loads(content)["message"] == "image and token required"
    assert await server.model() is None
