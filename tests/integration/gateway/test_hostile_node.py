"""What a machine that joined, and is up to no good, cannot do. docs/threat-model.md names these."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joining_rig import Machine, Site
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.agents import HELLO_BYTES, MOST_WAITING
from gateway.calls import VERSION
from gateway.frames import encode_data
from gateway.identity import Identity, NodeKey
from gateway.outbox import FIRST
from sessionkeeper.addresses import address_of
from sessionkeeper.agent.membership import Membership, enrol

HELLO = {"event": "hello", "version": VERSION, "runtime": "process", "engines": ["namespace"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway, with a machine of its operator."""
    made = Site(tmp_path_factory.mktemp("hostile")).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", made.authority.file)
        yield made
    made.close()


@pytest.fixture(scope="module")
def ours(site: Site) -> Machine:
    """It has the session."""
    return site.machine("ours").join(site.token(tier="on-demand"))


@pytest.fixture(scope="module")
def evil(site: Site) -> Membership:
    """A machine that joined as others do."""
    place = f"https://127.0.0.1:{site.port}"
    return enrol(place, site.token(tier="spot"), "evil", None, NodeKey.new())


class Liar:
    """A node's end of a connection, that says what it likes. `heard` is all it was ever told."""

    def __init__(self, socket: ClientConnection, identity: Identity) -> None:
        self.socket = socket
        self.identity = identity
        self.heard: list[dict[str, Any]] = []

    async def hello(self, **lies: Any) -> dict[str, Any]:
        """Say hello; the gateway's word."""
        challenge = await self.next()
        said = {**HELLO, "node": self.identity.name, "proof": self.identity.answer(challenge)}
        await self.say({**said, **lies})
        return await self.next()

    async def say(self, event: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(event))

    async def next(self) -> dict[str, Any]:
        self.heard.append(json.loads(await asyncio.wait_for(self.socket.recv(), 20)))
        return self.heard[-1]

    async def until(self, event: str) -> None:
        while (await self.next()).get("event") != event:
            pass

    async def settled(self) -> None:
        """All that was said before was read."""
        await self.say({"event": "heartbeat", "sent": len(self.heard)})
        while self.heard[-1].get("sent") is None:
            await self.next()


@contextlib.asynccontextmanager
async def dial(
    site: Site, member: Membership, header: str = "", key: str = ""
) -> AsyncIterator[Liar]:
    identity = replace(member.identity, key=NodeKey(key)) if key else member.identity
    async with connect(
        f"wss://127.0.0.1:{site.port}/agents",
        additional_headers={"Authorization": header or f"node {member.name}"},
        ssl=ssl.create_default_context(cafile=site.authority.file),
        max_size=None,
        proxy=None,
    ) as socket:
        yield Liar(socket, identity)


async def test_it_cannot_pose_as_another_node(site: Site, ours: Machine, evil: Membership) -> None:
    other = replace(evil, name="ours")
    async with dial(site, other) as liar:  # its own key, another's name
        refused = await liar.hello()
        assert refused["event"] == "refused"
        assert "does not have its key" in refused["error"]["message"]
    async with dial(site, evil) as liar:  # the name in the hello is what counts
        assert (await liar.hello(node="ours"))["event"] == "refused"
    async with dial(site, evil, header="token the-agents-token") as liar:  # the agents' token
        await liar.say({**HELLO, "node": "ours"})
        refused = await liar.next()
        assert "has joined with a key of its own" in refused["error"]["message"]
    async with dial(site, replace(evil, name="nobody")) as liar:
        assert "No machine called nobody" in (await liar.hello())["error"]["message"]
    assert site.nodes()["ours"]["state"] == "ready"


async def test_it_cannot_say_that_it_is_trusted_more(site: Site, evil: Membership) -> None:
    async with dial(site, evil) as liar:
        assert (await liar.hello(tier="on-demand", joined=False))["event"] == "welcome"
        assert site.nodes()["evil"]["tier"] == "spot"


async def test_what_it_says_of_itself_breaks_nothing(
    site: Site, ours: Machine, evil: Membership
) -> None:
    for lie in (
        {"memory": "much"},
        {"cores": -1},
        {"sessions": {"default": "x"}},
        {"kernelspecs": {"python3": 3}},
        {"runtime": "magic"},
        {"engines": 7},
        {"images": []},
        {"price": float("nan")},
        {"has_images": [3]},
    ):
        async with dial(site, evil) as liar:
            refused = await liar.hello(**lie)
            assert next(iter(lie)) in refused["error"]["message"], lie
    async with dial(site, evil) as liar:
        script = {"spec": {"display_name": "x"}, "resources": {"kernel.js": "YWxlcnQoMSk="}}
        specs = {"evil": script, "python3": script}
        assert (await liar.hello(kernelspecs=specs))["event"] == "welcome"
        found = site.ask("GET", "/api/kernelspecs")[1]["kernelspecs"]
        assert found["evil"]["resources"] == {}
        assert found["python3"]["spec"]["display_name"] != "x"
    async with site.kernel() as kernel:
        assert await kernel.ask("1 + 1") == "2"


async def test_its_key_opens_nothing_but_its_own_door(site: Site, evil: Membership) -> None:
    signature = evil.identity.answer({"gateway": evil.gateway, "nonce": "x"})
    for token in (evil.key, evil.identity.key.public, signature, "the-agents-token"):
        for method, path in (
            ("GET", "/api/kernels"),
            ("GET", "/api/sessionkeeper/nodes"),
            ("GET", "/api/sessionkeeper/sessions"),
            ("POST", "/api/sessionkeeper/join-tokens"),
            ("POST", "/api/sessionkeeper/nodes/ours/revoke"),
            ("GET", "/metrics"),
            ("GET", "/blobs/?prefix="),
        ):
            assert site.ask(method, path, token=token)[0] == 401, path


async def test_it_cannot_speak_for_kernels_that_run_elsewhere(
    site: Site, ours: Machine, evil: Membership
) -> None:
    async with site.kernel() as kernel:
        await kernel.ask("x = 1")
        now = await site.until(lambda s: s["state"] == "running")
        assert now["node"] == "ours"
        async with dial(site, evil) as liar:
            assert (await liar.hello(sessions={"default": now["epoch"]}))["event"] == "welcome"
            address = uuid.UUID(address_of("default", kernel.id)).bytes
            for epoch in range(1, now["epoch"] + 3):
                await liar.socket.send(address + encode_data(epoch, 10**6, b"\0\0\0"))
            gone = {"event": "kernel_gone", "session": "default", "kernel_id": kernel.id}
            await liar.say({**gone, "epoch": now["epoch"]})
            await liar.settled()
        assert await kernel.ask("x + 1") == "2"
        after = await site.until(lambda s: s["state"] == "running")
        assert (after["node"], after["epoch"]) == ("ours", now["epoch"])


async def test_it_hears_nothing_of_sessions_that_it_does_not_have(
    site: Site, ours: Machine, evil: Membership
) -> None:
    site.operate("POST", "sessions", {"name": "quiet-one", "owner": "ann-the-owner"})
    async with site.kernel() as kernel:
        await kernel.ask("x = 1")
        async with dial(site, evil) as liar:
            await liar.hello()
            await site.until(lambda s: s["checkpoint"] is not None)
            await liar.settled()
            told = json.dumps(liar.heard)
            for secret in ("quiet-one", "ann-the-owner", kernel.id, "operators"):
                assert secret not in told
        answers = []
        for name in ("quiet-one", "no-such-session"):  # no way to find out by asking, either
            async with dial(site, evil) as liar:
                await liar.hello(sessions={name: 7})
                call = await liar.next()
                answers.append((call["method"], json.dumps(call["params"]).replace(name, "NAME")))
        assert answers[0] == answers[1]


def peak(pid: int) -> int:
    """Bytes that were resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


async def shut(liar: Liar, message: str | bytes, times: int) -> bool:
    """Whether the gateway ends the connection over so many messages."""
    try:
        for _ in range(times):
            await liar.socket.send(message)
        async with asyncio.timeout(20):
            await liar.socket.wait_closed()
    except ConnectionClosed:
        return True
    return liar.socket.close_code is not None


async def test_it_cannot_fill_the_gateways_memory(
    site: Site, ours: Machine, evil: Membership
) -> None:
    assert site.process is not None
    before = peak(site.process.pid)
    async with dial(site, evil) as liar:  # longer than any hello
        await liar.next()
        assert await shut(liar, b"x" * (HELLO_BYTES + 1), 1)
    async with dial(site, evil) as liar:  # beginnings of frames that never end
        await liar.hello()
        piece = struct.pack(">BQ", FIRST, 1 << 30) + bytes(1 << 20)
        for _ in range(200):
            await liar.socket.send(uuid.uuid4().bytes + piece)
        await liar.settled()
    async with dial(site, evil) as liar:  # asks and asks, and does not read the answers
        await liar.hello()
        liar.socket.transport.pause_reading()
        many = json.dumps({"event": "heartbeat", "sent": "x" * 10_000})
        assert await shut(liar, many, 20 * MOST_WAITING)
    assert peak(site.process.pid) - before < 150 << 20
    async with site.kernel() as kernel:
        assert await kernel.ask("1 + 1") == "2"


async def test_who_says_nothing_is_not_waited_for_and_strangers_send_little(site: Site) -> None:
    assert site.ask("POST", "/agents/join", {"name": "x" * 5000}, token=None)[0] == 400
    assert site.ask("POST", "/agents/join", {}, token=None)[0] == 400
    assert site.ask("POST", "/agents/join", [], token=None)[0] == 400
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", site.port, ssl=ssl.create_default_context(cafile=site.authority.file)
    )
    writer.write(b"PUT /blobs/packs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n\r\n")
    answer = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    assert answer.split()[1] in (b"400", b"401", b"413")
