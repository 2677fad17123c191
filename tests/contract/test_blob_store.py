"""What every blob store promises. To run it on another one, add it to `STORES`."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import pytest
from s3.service import new_bucket
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from checkpoint.blobs import (
    BandwidthLimited,
    BlobStore,
    ConcurrencyLimited,
    LocalDirectory,
    Memory,
    Metered,
    Pausable,
    Prefixed,
    Remembering,
    Retrying,
    open_store,
    probe,
)
from checkpoint.errors import AlreadyExists, NotFound
from checkpoint.stores.s3 import S3
from sessionkeeper.agent.blobs import ProxiedBlobs
from sessionkeeper.keeper.blobs import BlobHandler, Grant, Grants


@cache
def gateway() -> tuple[str, Grants]:
    """A server with a gateway's blob access, in a thread of its own: its address, its grants."""
    grants, ready = Grants(), Future[str]()

    async def serve() -> None:
        server = HTTPServer(Application([(r"/blobs/(.*)", BlobHandler, {"grants": grants})]))
        [socket] = bind_sockets(0, "127.0.0.1")
        server.add_socket(socket)
        ready.set_result(f"http://127.0.0.1:{socket.getsockname()[1]}/blobs")
        await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    return ready.result(timeout=10), grants


def proxied(store: BlobStore) -> BlobStore:
    url, grants = gateway()
    return ProxiedBlobs(url, grants.issue(Grant(store, may_write=lambda key, only_new: True)))


@cache
def s3_store(url: str) -> BlobStore:
    return S3(new_bucket(url), endpoint=url, style="path")


@cache
def s3_store_by_url(url: str) -> BlobStore:
    return open_store(f"s3://{new_bucket(url)}/some/where?endpoint={url}&region=eu-west-1")


def emptied(store: BlobStore) -> BlobStore:
    """Making one takes longer than a test."""
    for key in list(store.list("")):
        store.delete(key)
    return store


# Name to a function that makes an empty store, given an empty directory.
STORES: dict[str, Callable[[Path], BlobStore]] = {
    "memory": lambda _: Memory(),
    "local-directory": LocalDirectory,
    "prefixed": lambda path: Prefixed(LocalDirectory(path), "sessions/one/"),
    "retrying": lambda _: Retrying(Memory()),
    "bandwidth-limited": lambda _: BandwidthLimited(Memory(), read=1e9, write=1e9),
    "concurrency-limited": lambda _: ConcurrencyLimited(Memory(), 2),
    "metered": lambda _: Metered(Memory()),
    "pausable": lambda _: Pausable(Memory()),
    "remembering": lambda _: Remembering(Memory()),
    "proxied": lambda path: proxied(Prefixed(LocalDirectory(path), "sessions/one/")),
}


# The same, given the URL of an S3 service.
S3_STORES: dict[str, Callable[[str], BlobStore]] = {
    "s3": lambda url: emptied(s3_store(url)),
    "s3-by-url": lambda url: emptied(s3_store_by_url(url)),
    "s3-proxied": lambda url: proxied(Prefixed(emptied(s3_store(url)), "sessions/one/")),
}


@pytest.fixture(params=[*STORES, *S3_STORES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param in S3_STORES:
        return S3_STORES[request.param](request.getfixturevalue("s3_service"))
    return STORES[request.param](tmp_path)


def test_object_reads_as_it_was_written(store: BlobStore) -> None:
    for key, data in (("a", b""), ("b/c.d", b"x" * 100_000), ("b/e", bytes(range(256)))):
        store.put(key, data)
        assert store.get(key) == data


def test_any_buffer_can_be_written(store: BlobStore) -> None:
    store.put("a", bytearray(b"123"))
    store.create("b", memoryview(b"0123")[1:])
    assert store.get("a") == store.get("b") == b"123"


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (8, 100, b"89"),
        (10, 5, b""),
        (99, 5, b""),
        (99, None, b""),
        (3, 0, b""),
    ],
)
def test_range_ends_where_the_object_does(
    store: BlobStore, start: int, length: int | None, expected: bytes
) -> None:
    store.put("digits", b"0123456789")
    assert store.get("digits", start, length) == expected


def test_missing_object_is_named(store: BlobStore) -> None:
    store.put("dir/there", b"x")
    for key in ("nothing", "dir/nothing", "dir", "dir/there/below"):
        with pytest.raises(NotFound, match=key):
            store.get(key)


def test_put_replaces(store: BlobStore) -> None:
    store.put("key", b"first, and longer")
    store.put("key", b"second")
    assert store.get("key") == b"second"


def test_create_never_replaces(store: BlobStore) -> None:
    store.create("dir/key", b"first")
    with pytest.raises(AlreadyExists, match="dir/key"):
        store.create("dir/key", b"second")
    assert store.get("dir/key") == b"first"
    store.delete("dir/key")
    store.create("dir/key", b"third")
    assert store.get("dir/key") == b"third"


def test_one_of_many_creators_wins(store: BlobStore) -> None:
    won: list[bytes] = []
    barrier = threading.Barrier(8)

    def create(data: bytes) -> None:
        barrier.wait()
        try:
            store.create("contested", data)
        except AlreadyExists:
            return
        won.append(data)

    threads = [threading.Thread(target=create, args=(bytes([i]) * 9999,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("contested") == won[0]


def test_list_gives_keys_with_the_prefix_in_order(store: BlobStore) -> None:
    keys = ["a", "b-c", "b/a", "b/c/d", "b/c0", "b0", "c/x"]
    for key in reversed(keys):
        store.put(key, b"")
    assert list(store.list("")) == sorted(keys)
    assert list(store.list("b")) == ["b-c", "b/a", "b/c/d", "b/c0", "b0"]
    assert list(store.list("b/")) == ["b/a", "b/c/d", "b/c0"]
    assert list(store.list("b/c")) == ["b/c/d", "b/c0"]
    assert list(store.list("nothing/here")) == []


def test_deleted_object_is_gone_and_deleting_again_is_no_error(store: BlobStore) -> None:
    store.put("dir/key", b"x")
    store.delete("dir/key")
    store.delete("dir/key")
    store.delete("never/there")
    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("dir/key")


def test_keys_cannot_leave_the_store(store: BlobStore) -> None:
    for key in ("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".tmp/x", "a\0b", "ü", "a b"):
        with pytest.raises(ValueError, match="key"):
            store.put(key, b"x")


def test_megabytes_pass_unchanged(store: BlobStore) -> None:
    data = random.Random(7).randbytes(9 << 20)
    store.create("large", memoryview(data))
    assert store.get("large") == data
    assert store.get("large", 4 << 20, 100) == data[4 << 20 :][:100]


def test_probe_accepts_the_store_and_leaves_nothing(store: BlobStore) -> None:
    probe(store)
    assert list(store.list("")) == []
