"""What a node may do in the store: read its own session, add packs to it, as long as it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from checkpoint.blobs import Memory, Prefixed
from checkpoint.errors import AlreadyExists, NotFound, StoreNotWritable, StoreUnavailable
from sessionkeeper.agent.blobs import ProxiedBlobs
from sessionkeeper.keeper.blobs import THREADS, BlobHandler, Grant, Grants, packs_only
from sessionkeeper.keeper.workspace import StoreWithWrites
from sessionkeeper.keeper.writes import WriteJournal


class Store:
    """Two sessions' objects, a gateway's access to them, and a node of session ``one``."""

    def __init__(self, base: Path) -> None:
        self.all = Memory()
        self.journal = WriteJournal(base)
        self.grants = Grants()
        own = StoreWithWrites(Prefixed(self.all, "sessions/one/"), self.journal)
        self.token = self.grants.issue(Grant(own, packs_only))
        for session in ("one", "two"):
            self.all.put(f"sessions/{session}/manifests/00000001", session.encode())
            self.all.put(f"sessions/{session}/packs/aa", session.encode())
        server = HTTPServer(Application([(r"/blobs/(.*)", BlobHandler, {"grants": self.grants})]))
        [socket] = bind_sockets(0, "127.0.0.1")
        server.add_socket(socket)
        self.server = server
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}/blobs"
        self.node = ProxiedBlobs(self.url, self.token)

    async def ask(self, method: str, *arguments: Any) -> Any:
        def call() -> Any:
            found = getattr(self.node, method)(*arguments)
            return list(found) if method == "list" else found

        return await asyncio.to_thread(call)

    async def raw(self, method: str, path: str, token: str | None, **headers: str) -> int:
        if token is not None:
            headers["Authorization"] = f"token {token}"

        def call() -> int:
            answer = urllib3.request(method, f"{self.url}/{path}", headers=headers, body=b"")
            return answer.status

        return await asyncio.to_thread(call)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path)
    yield made
    made.node.close()
    made.server.stop()
    made.journal.close()


async def test_node_reads_its_session_and_adds_packs(store: Store) -> None:
    assert await store.ask("get", "manifests/00000001") == b"one"
    await store.ask("create", "packs/bb", b"new")
    assert await store.ask("list", "") == ["manifests/00000001", "packs/aa", "packs/bb"]
    assert store.all.get("sessions/one/packs/bb") == b"new"


async def test_node_never_writes_to_the_chain(store: Store) -> None:
    before = dict(store.all.objects)
    for method, key in (
        ("create", "manifests/00000002"),
        ("put", "manifests/00000001"),
        ("put", "manifests/00000002"),
        ("delete", "manifests/00000001"),
        ("create", "key"),
        ("create", "packsx"),
        ("create", "writes/1"),
    ):
        with pytest.raises(StoreNotWritable, match="only create packs"):
            await store.ask(method, key, *([] if method == "delete" else [b"x"]))
    assert store.all.objects == before


async def test_node_never_changes_what_is_there(store: Store) -> None:
    before = dict(store.all.objects)
    with pytest.raises(AlreadyExists):
        await store.ask("create", "packs/aa", b"other")
    with pytest.raises(StoreNotWritable):
        await store.ask("put", "packs/aa", b"other")
    with pytest.raises(StoreNotWritable):
        await store.ask("delete", "packs/aa")
    assert store.all.objects == before


@pytest.mark.parametrize(
    "path",
    [
        "../two/packs/aa",
        "%2e%2e/two/packs/aa",
        "packs/../../two/packs/aa",
        "/sessions/two/packs/aa",
        "sessions/two/packs/aa",
        "..%2ftwo%2fpacks%2faa",
    ],
)
async def test_node_cannot_read_another_session(store: Store, path: str) -> None:
    assert await store.raw("GET", path, store.token) in {400, 404}


async def test_node_cannot_list_another_session(store: Store) -> None:
    for prefix in ("../", "sessions/two/", "../two/"):
        assert await store.ask("list", prefix) == []


async def test_token_is_good_until_its_incarnation_ends(store: Store) -> None:
    assert await store.raw("GET", "packs/aa", store.token) == 200
    store.grants.revoke(store.token)
    store.grants.revoke(store.token)
    for method in ("GET", "PUT", "DELETE"):
        assert await store.raw(method, "packs/aa", store.token) == 401
    # As a store that does not answer for a moment: a gateway that was started again may renew it.
    with pytest.raises(StoreUnavailable):
        await store.ask("get", "packs/aa")


async def test_renewed_token_is_shown_from_then_on(store: Store) -> None:
    [grant] = [store.grants.find(f"token {store.token}")]
    assert grant is not None
    store.grants.revoke(store.token)
    store.node.renew(store.grants.issue(grant))
    assert await store.ask("get", "packs/aa") == b"one"


@pytest.mark.parametrize(
    "change",
    [
        lambda token: None,
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.swapcase(),
        lambda token: "é",
    ],
)
async def test_whoever_does_not_have_the_token_is_refused(
    store: Store, change: Callable[[str], str | None]
) -> None:
    assert await store.raw("GET", "packs/aa", change(store.token)) == 401


def test_looking_for_a_token_takes_all_of_them_into_account() -> None:
    """As many comparisons whichever it is, or none: time tells nothing."""
    grants = Grants()
    tokens = [grants.issue(Grant(Memory(), packs_only)) for _ in range(3)]
    found = [grants.find(f"token {token}") for token in tokens]
    assert None not in found
    assert len({id(one) for one in found}) == 3
    assert grants.find("token nothing") is None
    assert len(set(tokens)) == 3
    assert all(len(token) >= 32 for token in tokens)


async def test_node_reads_the_bytes_of_recorded_writes_and_only_those(store: Store) -> None:
    data = store.journal.incoming()
    data.write_bytes(b"0123456789")
    store.journal.record("write", "x", data=data)
    assert await store.ask("get", "writes/1") == b"0123456789"
    assert await store.ask("get", "writes/1", 3, 4) == b"3456"
    for key in ("writes/2", "writes/log", "writes/x", "writes/-1"):
        with pytest.raises(NotFound):
            await store.ask("get", key)
    assert await store.raw("GET", "writes/../log", store.token) in {400, 404}


async def test_what_is_no_key_is_refused_with_words(store: Store) -> None:
    assert await store.raw("GET", "a//b", store.token) == 400
    assert await store.raw("PUT", "packs//b", store.token, **{"If-None-Match": "*"}) == 400
    assert await store.raw("GET", "nothing", store.token) == 404


class Stuck(Memory):
    """A store that answers nobody until it is told to; `asked` counts who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()
        self.asked = threading.Semaphore(0)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self.asked.release()
        assert self.answer.wait(30)
        return super().get(key, start, length)


async def test_store_that_does_not_answer_leaves_the_gateway_its_threads(store: Store) -> None:
    stuck = Stuck()
    stuck.put("packs/aa", b"late")
    token = store.grants.issue(Grant(stuck, packs_only))
    threads = ThreadPoolExecutor(THREADS)
    nodes = ProxiedBlobs(store.url, token), ProxiedBlobs(store.url, token)
    loop = asyncio.get_running_loop()
    try:
        reads = [
            loop.run_in_executor(threads, nodes[at % 2].get, "packs/aa") for at in range(THREADS)
        ]
        for _ in reads:
            assert await asyncio.to_thread(stuck.asked.acquire, timeout=10)
        # What else the gateway does in threads, and at the same time its event loop, go on.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 10) == "done"
        assert not any(read.done() for read in reads)
        stuck.answer.set()
        assert await asyncio.gather(*reads) == [b"late"] * THREADS
    finally:
        stuck.answer.set()
        threads.shutdown()
        for node in nodes:
            node.close()
