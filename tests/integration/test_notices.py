"""A node is told that it will go, by a metadata service on a socket, and tells the gateway: what
runs on it moves, and the user reads why.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from metadata.service import AwsService
from system.counters import Counter
from system.fixtures import evidence
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container

LINK, ADDRESS = "sk-notices", "198.51.100.7"  # TEST-NET-2 (RFC 5737): nobody's


@pytest.fixture
def address() -> Iterator[str]:
    """An address of this machine that its nodes reach."""
    subprocess.run(["ip", "link", "delete", LINK], capture_output=True)
    for words in (f"link add {LINK} type bridge", f"addr add {ADDRESS}/32 dev {LINK}"):
        subprocess.run(["ip", *words.split()], check=True)
    subprocess.run(["ip", "link", "set", LINK, "up"], check=True)
    yield ADDRESS
    subprocess.run(["ip", "link", "delete", LINK], check=True)


@pytest_asyncio.fixture
async def cloud(address: str) -> AsyncIterator[AwsService]:
    async with AwsService().serve(address) as service:
        yield service


@pytest_asyncio.fixture
async def spot(
    cloud: AwsService, tmp_path: Path, request: pytest.FixtureRequest, artifacts: Path
) -> AsyncIterator[System]:
    """Two nodes that ask the metadata service."""
    environ = {"SESSIONKEEPER_METADATA_URL": cloud.url}
    system = System(tmp_path / "state", "--notices", "aws", environ=environ)
    with evidence(request, artifacts, system):
        try:
            await asyncio.to_thread(system.start)
            yield system
        finally:
            await asyncio.to_thread(system.stop)


def address_of(system: System, node: str) -> str:
    """Where its requests come from: an instance is known to its metadata service by that."""
    name = system.state.id
    said = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True).stdout
    bridge = next(one for one in json.loads(said) if one["ifname"] == f"skbr-{name}")
    first = bridge["addr_info"][0]["local"]
    return f"{first.rpartition('.')[0]}.{int(node.removeprefix('node-')) + 1}"


async def test_a_spot_node_that_aws_takes_back_drains_and_the_user_reads_why(
    spot: System, cloud: AwsService
) -> None:
    folder = await Folder(spot, "notice").create()
    async with spot.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        source = (await spot.running())["node"]
        target = {"node-1": "node-2", "node-2": "node-1"}[source]
        told = asyncio.create_task(
            spot.until(lambda s: any("AWS takes" in one for one in s["warnings"]))
        )
        cloud.peer = address_of(spot, source)
        await cloud.give(120)
        [words] = (await told)["warnings"]
        match = re.fullmatch(
            rf"{source} goes in (\d+) s \(AWS takes the spot instance back\)", words
        )
        assert match, words
        assert 110 <= int(match[1]) <= 120
        moved = await spot.until(lambda s: s["state"] == "running" and s["node"] == target)
        assert moved["warnings"] == []
        assert words in [event["text"] for event in moved["events"]]
        await counter.goes_on()
        await counter.check()
        assert f"{source} goes in " in await spot.command("node", "list")

        await cloud.withdraw()
        async with asyncio.timeout(30):
            while await spot._state_of(source) != "ready":
                await asyncio.sleep(0.05)
        assert "goes in" not in await spot.command("node", "list")
