"""Setting up a machine: real apt, real CRIU, real virtual environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessionkeeper import criu, setup
from sessionkeeper.apt_sources import Source
from sessionkeeper.errors import SetupFailed

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def nothing_installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which a bundle would go to a directory that is not there yet."""
    environ = {**os.environ, "SESSIONKEEPER_CRIU_DIR": str(tmp_path / "sk/criu")}
    environ.pop("SESSIONKEEPER_CRIU", None)
    return environ


def setup_criu(environ: dict[str, str], *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sessionkeeper.setup", "criu", *flags],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.needs("root", "apt")
def test_two_setups_at_once_make_one_bundle_that_works(nothing_installed: dict[str, str]) -> None:
    if criu.choose(filter(None, map(criu.examine, criu.candidates(nothing_installed)))):
        pytest.skip("this machine's own CRIU is recent, so none is made")
    both = [setup_criu(nothing_installed) for _ in range(2)]
    said = [process.communicate(timeout=150) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(err.count("fetching CRIU") for _, err in said) == 1
    assert sum("waiting for it" in err for _, err in said) == 1

    found = criu.require(nothing_installed)
    bundle = Path(nothing_installed["SESSIONKEEPER_CRIU_DIR"])
    assert found.path == bundle / "criu"
    loaded = subprocess.run(
        [found.path, "--version"],
        env={"LD_DEBUG": "files"},
        capture_output=True,
        text=True,
        check=True,
    )
    opened = [line.split()[-1] for line in loaded.stderr.splitlines() if "calling init" in line]
    assert opened
    assert [path for path in opened if not path.startswith(f"{bundle}/lib/")] == []
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".criu-")] == []

    again = setup_criu(nothing_installed)
    out, err = again.communicate(timeout=60)
    assert (again.returncode, err) == (0, "")
    assert out == f"{found} works here\n"


@pytest.mark.needs("root", "apt")
def test_unreachable_mirror_is_named_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Source("http://127.0.0.1:9/debian", "sid", ("main",))
    monkeypatch.setattr(setup, "read_sources", lambda directory: [gone])
    with pytest.raises(SetupFailed, match=r"127\.0\.0\.1:9/debian failed") as caught:
        setup.build_bundle(tmp_path / "criu", lambda text: None)
    assert "network" in caught.value.hint
    assert not (tmp_path / "criu").exists()


def test_distribution_without_a_debian_mirror_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "read_sources", lambda directory: [])
    with pytest.raises(SetupFailed, match="no Debian mirror") as caught:
        setup.build_bundle(tmp_path / "criu", lambda text: None)
    assert "SESSIONKEEPER_CRIU" in caught.value.hint


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("E: You don't have enough free space in /var/cache/apt/archives/.", "make room"),
        ("dpkg-deb: error: failed to write: No space left on device", "make room"),
        ("Err:1 http://x\n  Temporary failure resolving 'x'\nE: Failed to fetch", "network"),
        ("E: Unable to locate package criu", "by hand"),
    ],
)
def test_what_apt_said_gives_the_hint(output: str, hint: str) -> None:
    assert hint in setup.failed("fetching", output).hint


def test_unknown_argument_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.main(["podman"]) == 2
    assert "hint: sessionkeeper setup criu" in capsys.readouterr().err


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What bootstrap.sh reads of a clean checkout, in a place that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="sk-checkout-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "scripts").mkdir()
        for part in ("scripts/bootstrap.sh", "requirements.lock", "pyproject.toml"):
            shutil.copy(REPOSITORY / part, place / part)
        yield place


def bootstrap(checkout: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    # As another user: the system packages of this machine are none of a test's business.
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "65534:65534", str(checkout)], check=True)
    return subprocess.run(
        [*(drop if os.geteuid() == 0 else []), "scripts/bootstrap.sh", "run"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "HOME": str(checkout), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_python_that_is_none_is_refused_before_anything_is_made(checkout: Path) -> None:
    done = bootstrap(checkout, PYTHON="/usr/bin/true-python")
    assert done.returncode == 12
    assert "not root: no system packages" in done.stderr
    assert "error: /usr/bin/true-python is not a Python of at least 3.11" in done.stderr
    assert "hint: name another in PYTHON" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.needs("system-python")
def test_no_network_is_said_with_a_hint_and_no_half_made_state(checkout: Path) -> None:
    offline = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "1",
    }
    done = bootstrap(checkout, PYTHON="/usr/bin/python3", **offline)
    assert done.returncode == 12, done.stderr
    assert "making a virtual environment with /usr/bin/python3" in done.stderr
    assert "error: installing the locked Python packages failed" in done.stderr
    assert "hint: check the network" in done.stderr
    assert not list((checkout / ".venv").glob(".ready-*"))
