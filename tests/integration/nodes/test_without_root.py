"""Nodes of a user who is not root: process groups, with the same commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessionkeeper.nodes import processes

from .conftest import HERE, ROOT, Up

MakeUp = Callable[..., Up]
USER = 61001
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--")
pytestmark = pytest.mark.needs("root")  # to become somebody else


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that any user may run, nested too."""
    if os.geteuid() != 0:
        return sys.executable
    script = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import rich'], check=True)"
    )
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
        command = [*AS_USER, candidate, "-c", script]
        done = subprocess.run(command, capture_output=True, env=_paths(), check=False)
        if done.returncode == 0:
            return candidate
    pytest.skip("no interpreter here can be run by another user")


def _paths() -> dict[str, str]:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user's, with nothing closed on the way to it."""
    place = Path("/tmp") / f"sessionkeeper-test-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chown(place, USER, USER)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def user_up(up: MakeUp, home: Path, python: str) -> MakeUp:
    def make(*flags: str) -> Up:
        return up(
            *flags,
            state=home / "state",
            python=python,
            prefix=AS_USER,
            runtime="process",
            environ={**_paths(), "HOME": str(home)},
        )

    return make


def test_every_part_runs_as_the_user(user_up: MakeUp) -> None:
    running = user_up().start()
    for pid in processes.parts(running.state.id):
        assert os.stat(f"/proc/{pid}").st_uid == USER
    assert set(running.hellos()) == {"node-1", "node-2"}
    assert running.stop() == 0
    assert (running.state.path / "ended").read_text() == "gateway\nui\n"
    assert running.leftovers() == {}


def test_killed_node_takes_along_what_daemonised_and_hid_and_its_data(user_up: MakeUp) -> None:
    running = user_up().start()
    assert len(running.on_nodes()) == 2  # by fork, setsid, fork, without their environment
    closed = running.state.nodes / "node-1" / "closed"
    subprocess.run([*AS_USER, "sh", "-c", f"mkdir -p {closed}/a && chmod 0 {closed}"], check=True)
    done = running.command("node", "kill", "node-1")
    assert done.returncode == 0, done.stderr
    assert len(running.on_nodes()) == 1
    assert os.listdir(running.state.nodes) == ["node-2"]
    assert running.command("node", "start", "node-1").returncode == 0
    assert running.stop() == 0
    assert running.leftovers() == {}


def test_up_after_a_killed_one_leaves_one_of_everything(user_up: MakeUp) -> None:
    running = user_up("--nodes", "1").start()
    old = running.on_nodes()
    running.stop(9)
    running.start()
    assert not set(old) & set(running.on_nodes())
    assert len(running.on_nodes()) == 1
    assert running.stop() == 0
    assert running.leftovers() == {}


def test_container_runtime_without_root_says_what_would_change_that(
    home: Path, python: str
) -> None:
    words = ["up", "--runtime", "container", "--state", str(home / "state"), "--port", "18997"]
    done = subprocess.run(
        [*AS_USER, python, "-m", "sessionkeeper", *words],
        capture_output=True,
        text=True,
        env={**_paths(), "HOME": str(home)},
        cwd=HERE,
        timeout=60,
    )
    assert done.returncode == 10, done.stderr
    assert "root" in done.stderr
    assert "hint:" in done.stderr
