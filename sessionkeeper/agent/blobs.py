"""The blob store as a node sees it: through the gateway, and only the part of its own session.

A node has no credentials for the store. It has a token for one session and one epoch, with
which it may read that session's objects and create packs; ``sessionkeeper.keeper.blobs`` is the
other end.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3

from checkpoint.blobs import Buffer, check_key
from checkpoint.errors import (
    AlreadyExists,
    NotFound,
    StoreError,
    StoreFull,
    StoreNotWritable,
    StoreUnavailable,
)

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

    ``by_proxy``: through the one that the environment names for the URL, if it does.
    """

    def __init__(
        self, url: str, token: str, *, connections: int = 8, by_proxy: bool = False
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
            timeout=urllib3.Timeout(connect=10, read=60),
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
        try:
            answer = self._pool.request(
                method,
                f"{self._url}/{path}",
                body=bytes(body) if isinstance(body, bytearray | memoryview) else body,
                fields=fields,
                headers=self._headers | (headers or {}),
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
