"""The kernel gateway's own tests of its WebSocket personality, run against this gateway.

They are in its source distribution, which is downloaded here and never kept in this repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

VERSION = "3.0.1"
SHA256 = "900690c4c0e796867355468d685f7fa1cf3c7775d08e871c157f77d65fbd6d7f"
HERE = Path(__file__).parent

# These talk to no server but to classes of the stock gateway. What they are about is claimed of
# ours in test_options.py; but for the last one, a session manager that is not there.
NOT_OVER_HTTP = (
    "test_config_bad_api_value",
    "test_prespawn_max_conflict",
    "test_seed_kernel_not_available",
    "test_session_api",
)
# Fetches a notebook from the internet; test_options.py does it with a server of its own.
NEEDS_INTERNET = ("TestRemoteSeedURI",)


@pytest.fixture
def stock_tests(tmp_path: Path) -> Path:
    """The directory of their tests, without their fixtures."""
    assert version("jupyter-kernel-gateway") == VERSION, "the tests are of another version"
    wanted = tmp_path / "wanted.txt"
    wanted.write_text(f"jupyter-kernel-gateway=={VERSION} --hash=sha256:{SHA256}\n")
    # pip asks a source distribution for its metadata, which takes what builds it.
    ours = find_spec("pip") and find_spec("hatchling")
    pip = [sys.executable, "-m", "pip"] if ours else [shutil.which("pip") or "pip"]
    download = [
        *(*pip, "download", "--quiet", "--no-deps", "--no-binary", "jupyter-kernel-gateway"),
        *(["--no-build-isolation"] if ours else []),
        *("--dest", str(tmp_path), "--requirement", str(wanted)),
    ]
    subprocess.run(download, check=True, timeout=120)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        # Python 3.11.2 has no filters yet; what it is was checked by its hash.
        content.extractall(tmp_path)
    tests = tmp_path / archive.name.removesuffix(".tar.gz") / "tests"
    (tests / "conftest.py").unlink()
    return tests


@pytest.mark.needs("pip")
def test_the_kernel_gateways_own_tests_pass(stock_tests: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.xml"
    left_out = " or ".join((*NOT_OVER_HTTP, *NEEDS_INTERNET))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "stock_fixtures", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--rootdir", str(stock_tests.parent), "-o", "asyncio_mode=auto"),
            *("--timeout", "60", "--junitxml", str(result), "-k", f"not ({left_out})"),
            str(stock_tests / "test_jupyter_websocket.py"),
        ],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
    )
    cases = ElementTree.parse(result).getroot().iter("testcase")
    passed = {case.get("name", "").partition("[")[0] for case in cases if not len(case)}
    assert done.returncode == 0, done.stdout
    assert {"test_auth_token", "test_cors_headers", "test_kernel_env", "test_seed"} <= passed
    assert len(passed) >= 20, passed
