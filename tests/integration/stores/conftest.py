"""An S3 service, and a faulty way to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from s3.faults import FaultyService, faulty
from s3.service import new_bucket

from checkpoint.blobs import Backoff, Retrying
from checkpoint.stores.s3 import S3

BRISK = Backoff(first=0.01, most=0.1, limit=5.0)


@pytest.fixture(scope="module")
def proxy(s3_service: str) -> Iterator[FaultyService]:
    with faulty(s3_service) as service:
        yield service


@pytest.fixture(scope="module")
def module_stores(s3_service: str, proxy: FaultyService) -> tuple[S3, S3]:
    """Making one takes longer than a test."""
    bucket = new_bucket(s3_service)
    one, other = (S3(bucket, endpoint=url, style="path") for url in (s3_service, proxy.url))
    return one, other


@pytest.fixture
def direct(module_stores: tuple[S3, S3]) -> S3:
    """The bucket, empty, past the proxy."""
    store = module_stores[0]
    for key in list(store.list("")):
        store.delete(key)
    return store


@pytest.fixture
def service(proxy: FaultyService) -> Iterator[FaultyService]:
    """The proxy without a fault, and nothing counted."""
    proxy.reset()
    yield proxy
    proxy.reset()


@pytest.fixture
def through(direct: S3, service: FaultyService, module_stores: tuple[S3, S3]) -> S3:
    """The same bucket, by way of the proxy; nothing is tried again."""
    return module_stores[1]


@pytest.fixture
def store(through: S3) -> Retrying:
    return Retrying(through, BRISK)
