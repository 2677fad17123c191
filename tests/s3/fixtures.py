"""The S3 service as fixtures; `tests/conftest.py` has them for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from s3.service import CREDENTIALS, moto


@pytest.fixture(scope="session")
def s3_process() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture(scope="module")
def s3_service(s3_process: str) -> Iterator[str]:
    """The URL of a service that honours conditions; boto3 here finds credentials for it."""
    with s3_credentials():
        yield s3_process


@contextmanager
def s3_credentials() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield patch
