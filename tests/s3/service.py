"""S3 services in processes of their own, and buckets in them."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_numbers = itertools.count(1)

PAGE = 100
"""Keys that moto gives in one answer; AWS gives 1000."""

# For whoever speaks to these services; nothing of the machine's own settings is used.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto() -> Iterator[str]:
    """The URL of a service that honours conditions."""
    command = [sys.executable, str(_HERE / "moto_process.py")]
    environ = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def rclone() -> str | None:
    """The rclone that the tests use, None when there is none."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextmanager
def rclone_s3(directory: Path) -> Iterator[str]:
    """The URL of `rclone serve s3` over `directory`: a service that ignores conditions."""
    program = rclone()
    assert program is not None
    keys = f"{CREDENTIALS['AWS_ACCESS_KEY_ID']},{CREDENTIALS['AWS_SECRET_ACCESS_KEY']}"
    command = [program, "serve", "s3", str(directory), "--addr", "127.0.0.1:0", "--auth-key", keys]
    quiet = {**os.environ, "RCLONE_CONFIG": os.devnull}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=quiet) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if (at := line.find("http://")) >= 0:
                    yield line[at:].split()[0].strip("[]").rstrip("/")
                    return
            raise AssertionError("rclone ended before it listened")
        finally:
            process.kill()


def new_bucket(service: str) -> str:
    """Make a bucket that nobody used before; its name."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    request = urllib.request.Request(f"{service}/{name}", method="PUT")
    # What the service goes by; moto checks no signature.
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/x")
    with urllib.request.urlopen(request, timeout=10):
        return name
