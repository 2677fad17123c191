"""Kernels in images: with the image's Python, user, environment and files; dumped, and restored on
another node, which fetches the image first.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application

from gateway.app import port_of
from sessionkeeper.agent.hosted import kernelspec_launch
from sessionkeeper.agent.offer import Offer, offer
from sessionkeeper.agent.place import Place, Slot
from sessionkeeper.agent.relay import ShimRelay
from sessionkeeper.agent.workspace import LiveWorkspace
from sessionkeeper.bench import own_image as python
from sessionkeeper.images.errors import ImageUnknown, ImageUnusable
from sessionkeeper.images.reference import Reference
from sessionkeeper.images.serving import image_routes
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.tickets import ticket_for
from sessionkeeper.images.writing import File, layer, put
from sessionkeeper.settings import AgentSettings

pytestmark = pytest.mark.container
PATIENCE = 30.0
SECRET = "agents"
START = b'#!/bin/sh\nexport FROM_START=yes\nexec "$@"\n'


@dataclass
class Pool:
    """What keeps images, and nodes that know nothing but its address."""

    store: ImageStore
    url: str
    image: Reference
    place: Path

    def ticket(self, image: Reference) -> str:
        return ticket_for(image.digest, SECRET)

    def have(self, node: Offer, image: Reference) -> dict[str, float]:
        assert node.images_here is not None
        return node.images_here.have(str(image), self.ticket(image))

    def settings(self, name: str) -> AgentSettings:
        return AgentSettings(
            gateway_url=self.url,
            token="unused",
            node=name,
            data=self.place / name,
            runtime="container",
        )

    def node(self, name: str) -> Offer:
        return offer(self.settings(name))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    place = tmp_path_factory.mktemp("pool")
    place.chmod(0o755)
    store = ImageStore(place / "images")
    home = python.HOME.lstrip("/")
    changes = [
        File(f"{home}/index.ipynb", b"{}", user=python.USER),
        File(f"{home}/.wh.gone.txt", b""),
        File("usr/local/bin/start.sh", START, 0o755),
    ]
    before = [File(f"{home}/gone.txt", b"", user=python.USER)]
    layers = [
        (python.base_layer(), ""),
        (layer(before, "gzip"), "gzip"),
        (layer(changes, "zstd"), "zstd"),
    ]
    config = {**python.CONFIG, "Entrypoint": ["/usr/local/bin/start.sh"]}
    image = put(store, "binder-ann:1", layers, config)
    started, loops = threading.Event(), []

    def serve() -> None:
        async def main() -> None:
            server = HTTPServer(Application(image_routes(store, SECRET)))
            server.listen(0, "127.0.0.1")
            loops.append((asyncio.get_running_loop(), asyncio.Event(), port_of(server)))
            started.set()
            await loops[0][1].wait()

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    started.wait()
    loop, ended, port = loops[0]
    yield Pool(store, f"http://127.0.0.1:{port}", image, place)
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    for node in place.iterdir():
        subprocess.run(["umount", str(node / "images")], capture_output=True, check=False)


class Kernel:
    def __init__(self, place: Place, slot: Slot, token: str) -> None:
        self.slot, self.token = slot, token
        self.relay = ShimRelay(
            lambda: place.connect(slot), lambda: place.alive(slot), token, lambda _: None
        )

    async def run(self, code: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not (await self.relay.call("status"))["ready"]:
                await asyncio.sleep(0.01)
            reply = await self.relay.call("execute", code=code)
        assert reply["status"] == "ok", "\n".join(reply["traceback"])


@contextlib.contextmanager
def opened(node: Offer, image: Reference, epoch: int = 1, new: bool = True) -> Iterator[Place]:
    place = node.place("in-image", epoch, image=str(image))
    try:
        if new:
            place.create()
            place.open()
        yield place
    finally:
        place.close()


async def start(place: Place) -> Kernel:
    slot, token = Slot("one", 42000), secrets.token_hex(8)
    spec, resources = place.kernelspecs.find("python3")
    launch = kernelspec_launch(spec, resources, {}, place.home)
    configuration = {"kernel_id": "one", "token": token, "kernel": launch}
    await asyncio.to_thread(place.start, slot, 1, configuration)
    kernel = Kernel(place, slot, token)
    await kernel.relay.open(PATIENCE)
    return kernel


WHERE_IT_IS = f"""
import os, sys
assert sys.prefix == '{python.ENV}', sys.prefix
assert os.getuid() == {python.USER}
assert os.environ['FROM_IMAGE'] == os.environ['FROM_START'] == 'yes'
assert os.environ['HOME'] == os.getcwd() == '{python.HOME}'
found = [n for n in os.listdir() if not n.startswith('.')]; assert found == ['index.ipynb'], found
assert not os.path.exists('/root/.venv') and not os.path.exists('/var/lib/dpkg')
open('index.ipynb', 'a').write('changed')
open('/tmp/mine', 'w').write('x')
import socket; assert socket.gethostbyname('localhost') == '127.0.0.1'
"""


async def test_kernel_has_the_images_python_user_environment_and_files(pool: Pool):
    node = pool.node("node-1")
    pool.have(node, pool.image)
    with opened(node, pool.image) as place:
        kernel = await start(place)
        await kernel.run(WHERE_IT_IS)
        await kernel.relay.close()
        workspace = LiveWorkspace(place.root, place.home, place.user)
        assert workspace.read("index.ipynb", 0, 100) == b"{}changed"
        # What the workspace began with is the session's own, so checkpoints have it.
        assert (place.tree / python.HOME.lstrip("/") / "index.ipynb").exists()
        assert list(place.kernelspecs.all()) == ["python3"]
    with opened(node, pool.image, 2) as second:
        found = LiveWorkspace(second.root, second.home, second.user).read("index.ipynb", 0, 100)
        assert found == b"{}", "sessions share the image, not what they write"


def test_node_that_has_an_image_does_not_fetch_it_again(pool: Pool):
    two = pool.node("node-2")
    assert two.images_here is not None
    assert two.images_here.here() == []
    with pytest.raises(ImageUnknown, match="binder-ann"):
        two.place("in-image", 1, image=str(pool.image))
    assert pool.have(two, pool.image).keys() == {"fetch", "look"}
    assert two.images_here.here() == [pool.image.digest]
    assert pool.have(pool.node("node-2"), pool.image) == {}


async def test_image_that_is_mounted_as_a_volume_is_taken_from_there(pool: Pool):
    one, volume = pool.node("node-1"), pool.place / "volume"
    pool.have(one, pool.image)
    assert one.images_here is not None
    root = one.images_here.root(str(pool.image))
    below = ":".join(str(root.directory / layer) for layer in root.layers)
    volume.mkdir()
    # As a kubelet does: an overlay, read-only, on which no other overlay could be dumped.
    overlay = ["mount", "-t", "overlay", "-o", f"ro,lowerdir={below}", "volume", str(volume)]
    subprocess.run(overlay, check=True)
    try:
        settings = replace(
            pool.settings("node-3"), mounted_image=str(pool.image), mounted_at=volume
        )
        node = offer(settings)
        pool.have(node, pool.image)
    finally:
        subprocess.run(["umount", str(volume)], check=True)
        volume.rmdir()
    assert node.images_here is not None
    assert len(node.images_here.root(str(pool.image)).layers) == 1
    with opened(node, pool.image) as place:
        kernel = await start(place)
        await kernel.run(WHERE_IT_IS)
        await kernel.relay.close()


def test_missing_image_is_an_error_that_names_it(pool: Pool):
    missing = replace(pool.image, name="nobody-built-this", digest=f"sha256:{'0' * 64}")
    with pytest.raises(ImageUnknown, match="nobody-built-this"):
        pool.have(pool.node("node-1"), missing)


@pytest.mark.parametrize(
    ("package", "words"),
    [("zmq", "has no Python >= 3.8 with pyzmq"), ("ipykernel", "no ipykernel")],
)
def test_image_that_no_kernel_can_run_in_is_refused_in_words(pool: Pool, package: str, words: str):
    (found,) = (one for one in python.files() if one.path.endswith(f"site-packages/{package}"))
    above, _, name = found.path.rpartition("/")
    without = layer([File(f"{above}/.wh.{name}", b"")])
    layers = [(python.base_layer(), ""), (without, "")]
    image = put(pool.store, f"without-{package}:1", layers, python.CONFIG)
    with pytest.raises(ImageUnusable, match=words) as refused:
        pool.have(pool.node("node-1"), image)
    assert "pip install ipykernel" in str(refused.value.hint)


def test_entrypoint_that_runs_no_command_is_found_out_before_a_session_waits_for_it(pool: Pool):
    config: dict[str, Any] = {**python.CONFIG, "Entrypoint": ["/bin/cat"]}
    image = put(pool.store, "deaf:1", [(python.base_layer(), "")], config)
    with pytest.raises(ImageUnusable, match="runs no command"):
        pool.have(pool.node("node-1"), image)
