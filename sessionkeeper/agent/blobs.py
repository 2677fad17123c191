"""The blob store as a node sees it: through the gateway, and only the part of its own session.

A node has no credentials for the store. It has a token for one session and one epoch, with
which it may read that session's objects and create packs; ``sessionkeeper.keeper.blobs`` is the
other end.
"""

from __future__ import annotations

import io
import socket
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection

from checkpoint.blobs import Buffer, check_key
from checkpoint.errors import (
    AlreadyExists,
    NotFound,
    StoreError,
    StoreFull,
    StoreNotWritable,
    StoreUnavailable,
)

PIECE = 64 << 10
"""Bytes of an object that are sent at a time. The time limit is for each of them: eight packs that
share a line of 10 Mbit/s take a minute, and one of 1 Mbit/s ten."""

_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; Python names it since 3.12
# What the operating system takes beyond what is on the wire has left as far as the limit goes.
_OPTIONS = [*HTTPConnection.default_socket_options, (socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, PIECE)]

_ERRORS: dict[int, type[StoreError]] = {507: StoreFull, 403: StoreNotWritable}


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL (``HTTPS_PROXY``, ``HTTP_PROXY``), if
    it is none of those in ``NO_PROXY``.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _proxied(proxy: str, **how: Any) -> urllib3.ProxyManager:
    who = urlsplit(proxy)
    basic = f"{unquote(who.username)}:{unquote(who.password or '')}" if who.username else None
    headers = urllib3.make_headers(proxy_basic_auth=basic)
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **how)


class ProxiedBlobs:
    """A :class:`checkpoint.blobs.BlobStore` over HTTP at ``url``. Thread-safe.

    ``by_proxy``: through the one that the environment names for the URL, if it does. ``patience``:
    seconds until it must be connected, and until each piece of an object is on its way.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        connections: int = 8,
        by_proxy: bool = False,
        patience: float = 10.0,
    ) -> None:
        self._url = url.rstrip("/")
        self.renew(token)
        # Only what is safe to ask twice is asked twice, and only when nothing was answered.
        retries = urllib3.Retry(connect=5, read=0, redirect=0, status=0, backoff_factor=0.1)
        proxy = proxy_for(url) if by_proxy else None
        make = partial(_proxied, proxy) if proxy else urllib3.PoolManager
        self._pool: urllib3.PoolManager = make(
            maxsize=connections,
            block=True,
            retries=retries,
            timeout=urllib3.Timeout(connect=patience, read=60),
            blocksize=PIECE,
            socket_options=_OPTIONS,
        )

    def renew(self, token: str) -> None:
        """Show this token from now on."""
        self._headers = {"Authorization": f"token {token}"}

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        headers: dict[str, str] = {}
        if length == 0:
            # An empty range cannot be asked for; that the object is there can.
            return self.get(key, 0, 1)[:0]
        if start or length is not None:
            end = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{end}"
        return self._call("GET", key, headers=headers)

    def put(self, key: str, data: Buffer) -> None:
        self._call("PUT", key, body=data)

    def create(self, key: str, data: Buffer) -> None:
        self._call("PUT", key, body=data, headers={"If-None-Match": "*"})

    def list(self, prefix: str) -> Iterator[str]:
        return iter(self._call("GET", None, fields={"prefix": prefix}).decode().split())

    def delete(self, key: str) -> None:
        self._call("DELETE", key)

    def close(self) -> None:
        self._pool.clear()

    def _call(
        self,
        method: str,
        key: str | None,
        *,
        body: Buffer | None = None,
        headers: dict[str, str] | None = None,
        fields: dict[str, str] | None = None,
    ) -> bytes:
        path = "" if key is None else check_key(key)
        length = {} if body is None else {"Content-Length": str(len(body))}
        try:
            answer = self._pool.request(
                method,
                f"{self._url}/{path}",
                body=None if body is None else io.BytesIO(body),
                fields=fields,
                headers=self._headers | length | (headers or {}),
            )
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(
                f"The store behind the gateway did not answer: {error}"
            ) from error
        if answer.status < 300:
            return answer.data
        if answer.status == 416:
            return b""
        if answer.status == 404:
            raise NotFound(path)
        if answer.status == 412:
            raise AlreadyExists(path)
        kind = _ERRORS.get(answer.status, StoreUnavailable)
        raise kind(answer.data.decode(errors="replace") or f"The store answered {answer.status}.")
