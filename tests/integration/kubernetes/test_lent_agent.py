"""Pods of the profile `unprivileged`, in containers: the agent comes into images that know nothing
of it, with a Python that needs nothing of theirs, as an ordinary user on a read-only root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.containers import Containers
from cluster.installed import SESSION, Gateway, gateway
from system.client import KernelClient

from images import lent, podman
from sessionkeeper.bench import own_image
from sessionkeeper.kubernetes.objects import HOME

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.own_cluster,
    pytest.mark.container,
    pytest.mark.needs("podman"),
    pytest.mark.timeout(300),
]
PATIENCE = 90.0
BARE = "localhost/bare:1"
NONE = "0" * 16
OF_USERS = "localhost/course:1"

WHO_AM_I = """
import os, sys
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print(sys.prefix, os.getuid(), status['CapEff'], status['CapBnd'], status['NoNewPrivs'],
      status['Seccomp'], os.access('/', os.W_OK), os.path.exists('/bin/sh'))
"""


@dataclass
class Podman:
    place: Path
    environ: dict[str, str]

    def build(self, tag: str, dockerfile: str) -> str:
        context = self.place / tag.rpartition("/")[2].partition(":")[0]
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile)
        command = ["podman", "build", "--quiet", "--tag", tag, str(context)]
        environ = {**os.environ, **self.environ}
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tag

    @contextlib.asynccontextmanager
    async def gateway(self, image: str) -> AsyncIterator[tuple[Gateway, str]]:
        """One whose sessions are in `image`, and the token of one of them."""
        place = self.place / f"gateway-of-{image.rpartition('/')[2]}".replace(":", "-")
        (place / "pods").mkdir(parents=True)
        run = Containers(place / "pods", self.environ).run
        async with gateway(place, run, (lent.AGENT, image)) as found:
            try:
                yield found, await found.begin()
            finally:
                await found.ask("DELETE", f"/api/sessionkeeper/sessions/{SESSION}")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    place = tmp_path_factory.mktemp("lent")
    place.chmod(0o755)
    known = podman.environ(place / "podman")
    lent.make_images(place, known)
    yield Podman(place, known)
    podman.unmount(place / "podman")


async def shown(kernel: KernelClient, code: str) -> str:
    cell = await kernel.run(code, PATIENCE)
    assert cell.reply is not None
    assert cell.reply["status"] == "ok", cell.shown
    return cell.shown.strip()


async def test_kernel_is_in_the_users_python_as_nobody_in_particular_and_outlives_its_pod(
    engine: Podman,
) -> None:
    dockerfile = f"FROM {podman.BASE}\nENV PATH={own_image.ENV}/bin:/usr/bin:/bin PYTHONHOME=\n"
    async with engine.gateway(engine.build(OF_USERS, dockerfile)) as (found, token):
        kernel = await found.kernel(token)
        await kernel.open()
        assert await shown(kernel, WHO_AM_I) == f"{own_image.ENV} 1000 {NONE} {NONE} 1 2 False True"
        await shown(kernel, "x = [41]; x.append(x)")
        async with asyncio.timeout(PATIENCE):
            while not (await found.status())["checkpoint"]:
                await asyncio.sleep(0.05)
        [pod] = await found.cluster.pods()
        await found.cluster.delete(pod)
        async with asyncio.timeout(PATIENCE):
            while (await found.status())["node"] == pod:  # else it may answer as it goes
                await asyncio.sleep(0.05)
        assert await shown(kernel, "x[1] is x and x[0] + 1") == "42"
        assert pod not in await found.cluster.pods()
        await kernel.close()


async def test_image_with_nothing_in_it_has_a_kernel_that_says_whose_python_it_is(
    engine: Podman,
) -> None:
    async with engine.gateway(lent.EMPTY) as (found, token):
        kernel = await found.kernel(token)
        await kernel.open()
        assert await shown(kernel, WHO_AM_I) == f"{HOME} 1000 {NONE} {NONE} 1 2 False False"
        specs = (await found.ask("GET", "/api/kernelspecs"))["kernelspecs"]
        assert "the image has no Python" in specs["python3"]["spec"]["display_name"]
        await kernel.close()


async def test_image_whose_python_has_no_kernel_says_what_it_lacks(engine: Podman) -> None:
    code = (
        "import glob, shutil;"
        f"[*map(shutil.rmtree, glob.glob('{own_image.ENV}/lib/*/site-packages/ipykernel'))]"
    )
    run = json.dumps([f"{own_image.ENV}/bin/python", "-c", code])
    dockerfile = f"FROM {podman.BASE}\nENV PATH={own_image.ENV}/bin:/usr/bin:/bin\nRUN {run}\n"
    async with engine.gateway(engine.build(BARE, dockerfile)) as (found, token):
        asking = asyncio.create_task(found.kernel(token))
        async with asyncio.timeout(PATIENCE):
            while "has no ipykernel" not in json.dumps(status := await found.status()):
                await asyncio.sleep(0.1)
        assert status["state"] != "running"
        asking.cancel()
