"""The blob store as a node sees it: through the gateway, and only the part of its own session.

A node has no credentials for the store. It has a token for one session and one epoch, with
which it may read that session's objects and create packs; ``sessionkeeper.keeper.blobs`` is the
other end.
"""

from __future__ import annotations

from collections.abc import Iterator

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


class ProxiedBlobs:
    """A :class:`checkpoint.blobs.BlobStore` over HTTP at ``url``. Thread-safe."""

    def __init__(self, url: str, token: str, *, connections: int = 8) -> None:
        self._url = url.rstrip("/")
        self.renew(token)
        # Only what is safe to ask twice is asked twice, and only when nothing was answered.
        retries = urllib3.Retry(connect=5, read=0, redirect=0, status=0, backoff_factor=0.1)
        self._pool = urllib3.PoolManager(
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
