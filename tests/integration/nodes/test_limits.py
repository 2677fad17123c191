"""What an owner offers is what sessions get, however many there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sessionkeeper.nodes import cgroups

pytestmark = pytest.mark.needs("root")
MB = 1 << 20


@pytest.fixture
def group() -> Iterator[str]:
    name = f"/sessionkeeper-test-{os.getpid()}/node"
    yield name
    assert cgroups.remove(name.rpartition("/")[0]) == []


def inside(group: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run it in a group below the node's, as a kernel's is."""
    join = "import os; " + "; ".join(
        f"os.makedirs({str(root / group.strip('/') / 'kernel')!r}, exist_ok=True); "
        f"open({str(root / group.strip('/') / 'kernel' / 'cgroup.procs')!r}, 'w').write('0')"
        for root in cgroups.hierarchies()
        if (root / group.strip("/")).is_dir()
    )
    return subprocess.run(
        [sys.executable, "-c", f"{join}\n{code}"], capture_output=True, text=True, timeout=60
    )


def test_sessions_use_no_more_memory_than_is_offered(group: str) -> None:
    assert cgroups.limit(group, None, 200 * MB) == []
    assert inside(group, f"print(len(bytearray({20 * MB})))").stdout == f"{20 * MB}\n"
    assert inside(group, f"bytearray({400 * MB})").returncode == -signal.SIGKILL


def test_sessions_use_no_more_processors_than_are_offered(group: str) -> None:
    assert cgroups.limit(group, 1, None) == []
    two = """
import os, time
os.fork()
began = time.monotonic()
while time.monotonic() - began < 1: pass
print(sum(os.times()[:2]))
"""
    before = time.monotonic()
    found = inside(group, two)
    used = sum(float(line) for line in found.stdout.split())
    assert used < 1.3 * (time.monotonic() - before), found.stderr


def test_nothing_is_limited_that_nobody_asked_for(group: str) -> None:
    assert cgroups.limit(group, None, None) == []
