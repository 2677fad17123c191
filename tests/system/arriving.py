"""A session on a node whose store holds the kernels' memory back while they are restored lazily.

CRIU keeps its cache of what the kernel can do only on a tmpfs, which a node has on /run:
`node_like` gives one to a test, `NODE_LIKE` to a program. As a program, `python -m system.arriving
DIRECTORY`: restores a kernel, prints the ids of its processes, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from checkpoint.blobs import LocalDirectory
from checkpoint.criu import Lazy
from checkpoint.errors import NotFound
from checkpoint.keys import SessionKeys
from checkpoint.repository import Repository
from sessionkeeper.agent.arrival import Arrival
from sessionkeeper.agent.container import ContainerPlace
from sessionkeeper.agent.mappings import processes_of
from sessionkeeper.agent.offer import ContainerOffer
from sessionkeeper.agent.place import Slot
from sessionkeeper.bench.stand import Stand
from sessionkeeper.nodes import cgroups
from sessionkeeper.settings import AgentSettings

MB = 1 << 20
SESSION = "lazy"
CGROUP = os.environ.setdefault("LAZY_TEST_CGROUP", f"/sessionkeeper-lazy-test-{os.getpid()}")
"""Of its own for each run of tests; the same for the programs that it starts."""
FILL = f"import hashlib, random; data = bytearray(random.Random(3).randbytes({40 * MB}))"
DIGEST = "hashlib.sha256(data).hexdigest()"


TMPFS = ("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
NODE_LIKE = (
    *("unshare", "--mount", "--net", "sh", "-c"),
    f'ip link set lo up && {" ".join(TMPFS)} && mkdir /run/netns && exec "$@"',
    "sh",
)


def node_like(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in a thread with a mount namespace of its own, as are the threads and processes
    that it starts."""

    def run(*arguments: object, **named: object) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(TMPFS, check=True)
        os.mkdir("/run/netns")
        asyncio.run(test(*arguments, **named))

    @functools.wraps(test)
    def wrapper(*arguments: object, **named: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, *arguments, **named).result()

    return wrapper


class Gate(LocalDirectory):
    """A store that reads ahead only while it is open: otherwise it gives no more than what somebody
    waits for. When `lost`, it gives nothing."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.open = threading.Event()
        self.open.set()
        self.lost = False

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if "/packs/" in key:
            if threading.current_thread().name.startswith("chunk-reader"):
                self.open.wait()
            if self.lost:
                raise NotFound(key)
        return super().get(key, start, length)


class Place(ContainerPlace):
    """Closes the gate when all has been fetched that is there from the beginning."""

    gate: Gate
    arrival: Arrival

    def restore_lazily(self, slot: Slot, image: Lazy, epoch: int) -> Arrival:
        self.gate.open.clear()
        self.arrival = super().restore_lazily(slot, image, epoch)
        return self.arrival


class Node(ContainerOffer):
    """The node, and its store."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            AgentSettings(
                gateway_url="http://127.0.0.1:1",
                token="none",
                node="node-1",
                data=directory / "node",
                runtime="container",
                cgroup=CGROUP,
                lazy_above=16 * MB,
            )
        )
        self.gate = Gate(directory / "store")
        self.place_now: Place | None = None

    def place(self, session: str, epoch: int) -> Place:
        place = Place(self._node, session, self._sessions / f"{session}-{epoch}")
        place.gate, self.place_now = self.gate, place
        return place

    def processes(self) -> list[int]:
        """Those of all kernels."""
        names = self._node.runc.names()
        return [pid for name in names for pid in processes_of(f"{CGROUP}/{SESSION}/{name}")]


@asynccontextmanager
async def saved(directory: Path) -> AsyncIterator[tuple[Node, Stand, str]]:
    """A node with a session whose one kernel has a checkpoint and was killed, and the digest of
    its data. `begin` restores it lazily, with the gate closed.
    """
    node = Node(directory)
    repository = Repository(node.gate, SESSION, SessionKeys.generate())
    one = Stand(node, node.gate.path, SESSION, repository)
    try:
        await one.begin()
        digest = await one.run(FILL, DIGEST)
        await one.checkpoint()
        await one.kill()
        yield node, one, digest
    finally:
        node.gate.open.set()
        await one.kill()
    assert node.processes() == []
    assert list(directory.rglob("lazy-pages.socket")) == []
    assert cgroups.remove(CGROUP) == []


async def _main(directory: Path) -> None:
    async with saved(directory) as (node, one, _):
        await one.begin()
        print(*node.processes(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
