"""Objects in a bucket of an S3 service, through boto3."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from botocore.response import StreamingBody

from checkpoint.errors import (
    AlreadyExists,
    StoreUnavailable,
    TransferBroken,
    UnsupportedStore,
)
from checkpoint.stores.protocol import Buffer, check_key
from checkpoint.stores.s3_errors import BOTO_ERRORS, RangeBeyondEnd, translated

_CONNECT_SECONDS = 5
# No byte in either direction for so long: broken. A slow uplink has seconds of bytes under way.
_SILENT_SECONDS = 30
_CONNECTIONS = 32
_READ_SIZE = 256 << 10
_OF_A_LIST = {"Contents", "IsTruncated", "KeyCount", "Name"}


class S3:
    """A store in a bucket, at AWS or any service that speaks S3 and honours `If-None-Match: *` on
    PutObject (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

    Credentials are those that boto3 finds. Tries nothing again: see `Retrying`, with which a read
    that broke goes on where it stopped. An object has at most 5 GiB, as one PutObject takes.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        style: str | None = None,
    ) -> None:
        """`endpoint` is the service's URL (AWS without), `region` the bucket's (as boto3 is
        configured without), `style` how the bucket is named: `path`, or `virtual`, in the host (as
        boto3 sees fit without). Nothing is sent yet.

        Raises `UnsupportedStore` when one of these makes no sense.
        """
        self.bucket = bucket
        self.endpoint = endpoint
        settings = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_SILENT_SECONDS,
            max_pool_connections=_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": style or "auto"},
            # Newer checksums come as trailers, which many services do not know.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client = boto3.session.Session().client(
                "s3", endpoint_url=endpoint, region_name=region, config=settings
            )
        except (ValueError, *BOTO_ERRORS) as error:
            if isinstance(error, ValueError):
                raise UnsupportedStore(f"{self.name} cannot be used: {error}.") from error
            raise translated(error, self.name, "") from error

    def __repr__(self) -> str:
        return f"S3({self.bucket!r}, endpoint={self.endpoint!r})"

    @property
    def name(self) -> str:
        """For people: the bucket, and where it is."""
        return f"s3://{self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        if length == 0:
            # An empty range cannot be asked for; that the object is there can.
            self._call(key, self._client.head_object)
            return b""
        return _Download(self, key, start, length).run()

    def put(self, key: str, data: Buffer) -> None:
        self._write(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._write(key, data, IfNoneMatch="*")

    def list(self, prefix: str) -> Iterator[str]:
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix):
                if not page.keys() & _OF_A_LIST:  # a page for people, say, as a proxy gives
                    raise UnsupportedStore(f"{self.name} answers, but not as S3 does.")
                for found in page.get("Contents", ()):
                    yield found["Key"]
        except RecursionError:
            raise self._redirected() from None
        except BOTO_ERRORS as error:
            raise translated(error, self.name, prefix) from error

    def delete(self, key: str) -> None:
        self._call(check_key(key), self._client.delete_object)

    def _write(self, key: str, data: Buffer, **condition: str) -> None:
        # The digest makes the service refuse what was altered on its way.
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest())
        self._call(
            check_key(key),
            self._client.put_object,
            # Read in pieces, so that the timeout is for silence and not for the whole transfer.
            Body=io.BytesIO(data),
            ContentLength=len(data),
            ContentMD5=digest.decode(),
            ContentType="application/octet-stream",
            **condition,
        )

    def _call(self, key: str, operation: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = operation(Bucket=self.bucket, Key=key, **arguments)
            return answer
        except RecursionError:
            raise self._redirected() from None
        except BOTO_ERRORS as error:
            raise translated(error, self.name, key) from error

    def _redirected(self) -> UnsupportedStore:
        """boto3 asks for the bucket's region after a redirect, and that is redirected too."""
        return UnsupportedStore(f"{self.name} sends every request elsewhere: it is not S3.")


class _Download:
    """One range of an object, and how much of it is there already."""

    def __init__(self, store: S3, key: str, start: int, length: int | None) -> None:
        self._store = store
        self._key = key
        self._start = start
        self._length = length
        self._pieces: list[bytes] = []
        self._received = 0
        self._tag: str | None = None  # what was read so far is of this version of the object

    def run(self) -> bytes:
        """Read what is missing; all of it. Raises `TransferBroken` when that breaks."""
        before = self._received
        try:
            if body := self._open():
                self._read(body)
        except StoreUnavailable as error:
            if not self._received:
                raise
            came = self._received - before
            raise TransferBroken(str(error), came, self.run) from error.__cause__
        return b"".join(self._pieces)

    def _open(self) -> StreamingBody | None:
        """What is missing, as the service gives it; None when there is nothing."""
        if self._received == self._length:
            return None
        begin = self._start + self._received
        end = "" if self._length is None else self._start + self._length - 1
        arguments: dict[str, Any] = {}
        if begin or end != "":
            arguments["Range"] = f"bytes={begin}-{end}"
        if self._tag is not None:
            arguments["IfMatch"] = self._tag
        try:
            answer = self._store._call(self._key, self._store._client.get_object, **arguments)
        except AlreadyExists:  # the condition does not hold: it was replaced meanwhile
            self._forget()
            return self._open()
        except RangeBeyondEnd:
            return None
        if "Range" in arguments and "ContentRange" not in answer:
            raise UnsupportedStore(f"{self._store.name} does not honour ranges.")
        self._tag = answer.get("ETag")
        body: StreamingBody = answer["Body"]
        return body

    def _read(self, body: StreamingBody) -> None:
        try:
            while piece := body.read(_READ_SIZE):
                self._pieces.append(piece)
                self._received += len(piece)
        except BOTO_ERRORS as error:
            raise translated(error, self._store.name, self._key) from error
        finally:
            body.close()

    def _forget(self) -> None:
        self._pieces.clear()
        self._received = 0
        self._tag = None
