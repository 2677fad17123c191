"""Control groups are frozen whatever their processes are in the middle of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessionkeeper.nodes import cgroups

pytestmark = pytest.mark.container

RESTLESS = """
import os, sys, threading, time
for _ in range(4):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""
"""Calls exec again and again, with other threads that have to end first."""


@pytest.fixture
def group() -> Iterator[str]:
    name = f"/sessionkeeper-test-{os.getpid()}"
    made = [root / name.strip("/") for root in cgroups.hierarchies() if _can_freeze(root)]
    for one in made:
        one.mkdir()
    yield name
    cgroups.thaw(name)
    assert cgroups.remove(name) == []


def _can_freeze(root: Path) -> bool:
    return root.name == "freezer" or (root / "cgroup.controllers").exists()


def test_processes_that_call_exec_are_frozen_as_well(group: str) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", RESTLESS])
    try:
        for root in cgroups.hierarchies():
            if (root / group.strip("/")).is_dir():
                (root / group.strip("/") / "cgroup.procs").write_text(str(process.pid))
        for _ in range(100):
            cgroups.freeze(group)
            before = Path(f"/proc/{process.pid}/stat").read_text()
            assert Path(f"/proc/{process.pid}/stat").read_text() == before
            cgroups.thaw(group)
        assert process.poll() is None
    finally:
        cgroups.thaw(group)
        process.kill()
        process.wait()


def test_a_group_that_is_not_there_is_said(group: str) -> None:
    with pytest.raises(FileNotFoundError, match="no control group /sessionkeeper-none"):
        cgroups.freeze("/sessionkeeper-none")
