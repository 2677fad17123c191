"""``/images/v2/...``: the images that a gateway keeps, for its nodes, as a registry serves them.

So a node has no credentials of any registry, and needs no way to one. It shows the ticket that it
was given with an image, and has that image with its layers, no other one.

Source: OCI distribution specification 1.1 ("Pull").
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from gateway.auth import ErrorsInWords, token_of
from gateway.errors import Unauthorized
from sessionkeeper.images.errors import ImageDamaged, ImageUnknown
from sessionkeeper.images.reference import Reference, is_digest
from sessionkeeper.images.registry import PIECE, of_path
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.tickets import image_of


class ImagesHandler(ErrorsInWords, RequestHandler):
    """Nothing can be changed here."""

    def initialize(self, store: ImageStore, secret: str) -> None:
        self._store = store
        self._secret = secret

    def prepare(self) -> None:
        image = image_of(token_of(self.request) or "", self._secret)
        if image is None:
            raise Unauthorized("No ticket for an image was shown.")
        self._image = image

    def compute_etag(self) -> None:
        """What is there never changes."""

    async def get(self, path: str) -> None:
        asked = of_path(path)
        if asked is None:
            raise HTTPError(404)
        name, kind, wanted = asked
        try:
            digest = wanted
            if kind == "manifests":
                tag = {"digest": wanted} if is_digest(wanted) else {"tag": wanted}
                digest = self._store.resolve(Reference("", name, **tag))
            if digest not in self._store.parts(self._image):
                raise HTTPError(403, reason="The ticket is for another image")
            file = self._store.blob(digest)
            size = file.stat().st_size
        except (ImageUnknown, ImageDamaged, FileNotFoundError):
            raise HTTPError(404, reason="No such image is kept here") from None
        self.set_header("Docker-Content-Digest", digest)
        self.set_header("Content-Length", str(size))
        self.set_header("Content-Type", "application/octet-stream")
        if kind == "manifests":
            data = file.read_bytes()
            self.set_header("Content-Type", self._store.media_type(data))
            self.finish(data)
            return
        await self._send(file)

    async def _send(self, file: Path) -> None:
        with await asyncio.to_thread(file.open, "rb") as content:
            try:
                while piece := await asyncio.to_thread(content.read, PIECE):
                    self.write(piece)
                    await self.flush()
            except StreamClosedError:
                return
        self.finish()


def image_routes(store: ImageStore, secret: str) -> list[tuple[str, type[RequestHandler], Any]]:
    """Return what to add to the gateway's application; ``secret`` is what tickets are made with."""
    return [(r"/images/v2/(.*)", ImagesHandler, {"store": store, "secret": secret})]
