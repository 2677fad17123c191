"""The S3 service as a fixture, for the modules that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from s3.service import CREDENTIALS, moto


@pytest.fixture(scope="module")
def s3_service() -> Iterator[str]:
    """The URL of a service that honours conditions; boto3 here finds credentials for it."""
    with pytest.MonkeyPatch.context() as patch, moto() as url:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield url
