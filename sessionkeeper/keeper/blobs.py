"""The blob store for nodes: one session's objects, over HTTP, with a token that ends with the
epoch.

A node may read what its session has and create packs. It cannot replace or delete anything, nor
create a manifest: the chain of a session is written by the gateway alone.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from tornado.web import HTTPError, RequestHandler, stream_request_body

from checkpoint.blobs import BlobStore, check_key
from checkpoint.errors import (
    AlreadyExists,
    CheckpointError,
    NotFound,
    StoreError,
    StoreFull,
    StoreNotWritable,
)

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
THREADS = 16
"""Requests of nodes that are with the store at once: two nodes read with eight each."""

LARGEST = 32 << 20
"""Bytes of an object that a node creates: a pack has a quarter of that."""

MOST_COMING = 8 * LARGEST
"""Bytes that the bearer of one token may have on their way here at a time."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Grant:
    """What the bearer of one token may do in ``store``, a session's own part of the store."""

    store: BlobStore
    may_write: Callable[[str, bool], bool]
    """Whether it may write this key; the flag says that only a new object will do."""
    received: Callable[[int], None] = lambda size: None
    """Told of bytes that come, when they do."""


def packs_only(key: str, only_new: bool) -> bool:
    """What a node may write."""
    return only_new and key.startswith("packs/")


class Grants:
    """The tokens that are good now, and the threads that serve them: their own, so that a store
    that is slow, or does not answer, leaves the gateway's other threads free.
    """

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}
        self.coming: Counter[int] = Counter()
        """Bytes that are in memory, of what the bearers of the grants send; by the grant's id."""
        self._threads = ThreadPoolExecutor(THREADS, "blobs")

    async def served(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do what blocks for the bearer of a token."""
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def issue(self, grant: Grant) -> str:
        """Return a new token for ``grant``."""
        token = secrets.token_urlsafe(24)
        self._grants[token] = grant
        return token

    def revoke(self, token: str) -> None:
        """The token's epoch is over."""
        self._grants.pop(token, None)

    def find(self, header: str) -> Grant | None:
        """Return the grant of an ``Authorization`` header, in a time that says nothing about the
        tokens there are.
        """
        given = header.removeprefix("token ").encode()
        found = None
        for token, grant in self._grants.items():
            if hmac.compare_digest(token.encode(), given):
                found = grant
        return found


@stream_request_body
class BlobHandler(RequestHandler):
    """``/blobs/KEY``: GET (also with Range), PUT (``If-None-Match: *`` to create), DELETE;
    ``/blobs/?prefix=``: list.
    """

    _body = bytearray()

    def initialize(self, grants: Grants) -> None:
        self._grants = grants

    def prepare(self) -> None:
        grant = self._grants.find(self.request.headers.get("Authorization", ""))
        if grant is None:
            # Not for good: a gateway that was started again has not taken the session up yet.
            raise HTTPError(401, reason="Token of no session that runs")
        self._grant = grant
        self._body = bytearray()
        connection: Any = self.request.connection
        connection.set_max_body_size(LARGEST)

    def data_received(self, chunk: bytes) -> None:
        self._grants.coming[id(self._grant)] += len(chunk)
        self._grant.received(len(chunk))
        self._body += chunk
        if self._grants.coming[id(self._grant)] > MOST_COMING:
            raise HTTPError(503, reason="This node sends more at a time than is taken")

    def on_finish(self) -> None:
        self._let_go()

    def on_connection_close(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._body:
            coming = self._grants.coming
            coming.subtract({id(self._grant): len(self._body)})
            coming += Counter()  # forgets those of whom nothing is coming
            self._body = bytearray()

    async def get(self, key: str) -> None:
        store = self._grant.store
        if not key:
            prefix = self.get_query_argument("prefix", "")
            keys = await self._grants.served(lambda: list(store.list(prefix)))
            self.finish("\n".join(keys))
            return
        wanted = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        length = int(wanted[2]) - start + 1 if wanted and wanted[2] else None
        data = await self._grants.served(store.get, self._checked(key), start, length)
        self.set_status(206 if wanted else 200)
        self.set_header("Content-Type", "application/octet-stream")
        self.finish(data)

    async def put(self, key: str) -> None:
        only_new = self.request.headers.get("If-None-Match") == "*"
        self._allow(key, only_new)
        write = self._grant.store.create if only_new else self._grant.store.put
        await self._grants.served(write, self._checked(key), self._body)
        self.set_status(201)

    async def delete(self, key: str) -> None:
        self._allow(key, only_new=False)
        await self._grants.served(self._grant.store.delete, self._checked(key))
        self.set_status(204)

    def compute_etag(self) -> None:
        """A hash of megabytes that nobody compares."""

    def check_xsrf_cookie(self) -> None:
        """No browser comes here; the token is never a cookie."""

    def _checked(self, key: str) -> str:
        try:
            return check_key(key)
        except ValueError as error:
            raise HTTPError(400, reason="Not a key") from error

    def _allow(self, key: str, only_new: bool) -> None:
        if not self._grant.may_write(key, only_new):
            raise HTTPError(403, reason="A node may only create packs of its own session")

    def write_error(self, status_code: int, **kwargs: object) -> None:
        info = kwargs.get("exc_info")
        error = info[1] if isinstance(info, tuple) else None
        if isinstance(error, CheckpointError):
            self.set_status(_status(error))
            self.finish(str(error))
        else:
            self.finish(self._reason)


def _status(error: CheckpointError) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, AlreadyExists):
        return 412
    if isinstance(error, StoreFull):
        return 507
    if isinstance(error, StoreNotWritable):
        return 403
    return 503 if isinstance(error, StoreError) else 500
