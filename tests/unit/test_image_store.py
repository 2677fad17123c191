"""Images that are kept, and how they are read again: from a directory, and as from a registry."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application

from gateway.app import port_of
from sessionkeeper.images.errors import ImageDamaged, ImageUnavailable, ImageUnknown
from sessionkeeper.images.reference import parse
from sessionkeeper.images.registry import Registry, pinned
from sessionkeeper.images.serving import image_routes
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.tickets import ticket_for
from sessionkeeper.images.writing import File, layer, put


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def test_image_that_was_added_is_there_by_name_and_digest(store: ImageStore):
    image = put(store, "a/b:1", [(layer([File("x", b"1")]), "")])
    assert store.has(parse("a/b:1"))
    assert store.resolve(parse("a/b:1")) == image.digest
    assert pinned("a/b:1", store) == str(image)
    other = put(store, "a/b:1", [(layer([File("x", b"2")]), "")])
    assert store.resolve(parse("a/b:1")) == other.digest != image.digest
    assert store.has(image), "who has it by its digest keeps it"
    for name in ("a/b:2", "a:1", "a/b/1:1"):
        assert not store.has(parse(name))
        with pytest.raises(ImageUnknown, match=name):
            store.resolve(parse(name))


def test_what_is_not_complete_gets_no_name(store: ImageStore):
    with store.incoming() as place, pytest.raises(ImageDamaged):
        store.name(place, parse("a:1"))
    image = put(store, "a:1", [(layer([File("x", b"1")]), "")])
    said = json.loads(store.blob(image.digest).read_bytes())
    store.blob(said["layers"][0]["digest"]).unlink()
    assert not store.has(parse("a:1"))


def test_sweeping_keeps_what_has_a_name_or_is_used(store: ImageStore):
    shared = layer([File("x", b"1" * 1000)])
    used = put(store, "a:1", [(shared, ""), (layer([File("y", b"2")]), "")])
    gone = put(store, "b:1", [(shared, ""), (layer([File("z", b"3")]), "")])
    named = put(store, "c:1", [(layer([File("w", b"4")]), "")])
    store.forget(parse("a:1"))
    store.forget(parse("b:1"))
    assert store.sweep(frozenset({used.digest})) > 0
    assert store.has(used)
    assert store.has(named)
    assert not store.has(gone)


async def test_gateway_serves_an_image_as_a_registry_to_who_has_its_ticket(store: ImageStore):
    content = layer([File("x", b"1" * 3_000_000)])
    image = put(store, "a/b:1", [(content, "")])
    other = put(store, "other:1", [(layer([File("x", b"2")]), "")])
    server = HTTPServer(Application(image_routes(store, "secret")))
    server.listen(0, "127.0.0.1")
    url = f"http://127.0.0.1:{port_of(server)}/images"

    def read() -> None:
        registry = Registry(url, f"token {ticket_for(image.digest, 'secret')}")
        digest, data = registry.manifest(parse("a/b:1"))
        assert digest == image.digest == registry.resolve(parse("a/b:1"))
        of_layer = json.loads(data)["layers"][0]["digest"]
        assert b"".join(registry.blob(image, of_layer)) == content
        with pytest.raises(ImageUnknown, match="a/b:2"):
            registry.manifest(parse("a/b:2"))
        with pytest.raises(ImageUnavailable, match="403"):
            registry.manifest(other)
        for wrong in (image.digest, ticket_for(image.digest, "guessed"), "secret"):
            with pytest.raises(ImageUnavailable, match="401"):
                Registry(url, f"token {wrong}").manifest(parse("a/b:1"))
        with pytest.raises(ImageUnavailable, match="does not answer"):
            Registry("http://127.0.0.1:1").manifest(parse("a/b:1"))

    await asyncio.to_thread(read)
    server.stop()


class Guarded(BaseHTTPRequestHandler):
    """A registry that wants a token of its own service, and one blob of which is damaged."""

    blobs: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        where = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path.startswith("/token"):
            self.asked.append(self.path)
            self._answer(200, b'{"token": "let me in"}')
        elif self.headers.get("Authorization") != "Bearer let me in":
            realm = f'Bearer realm="{where}/token",service="s",scope="repository:x:pull"'
            self._answer(401, b"", realm)
        else:
            self._answer(200, self.blobs[self.path.rpartition("/")[2]])

    def _answer(self, status: int, content: bytes, challenge: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def guarded(blobs: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    kind = type("Handler", (Guarded,), {"blobs": blobs, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_registry_that_sends_for_a_token_is_asked_with_it():
    data = b'{"layers": [], "config": {}}'
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    damaged = f"sha256:{'1' * 64}"
    with guarded({"1": data, digest: data, damaged: b"other"}) as (host, asked):
        image = parse(f"{host}/x:1")
        registry = Registry.at(host)
        assert registry.manifest(image) == (digest, data)
        assert registry.manifest(image.pinned(digest)) == (digest, data)
        assert asked == ["/token?service=s&scope=repository%3Ax%3Apull"]
        with pytest.raises(ImageDamaged):
            list(registry.blob(image, damaged))
        with pytest.raises(ImageDamaged):
            registry.manifest(image.pinned(damaged))
