"""PID 1 of a session's pod."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from sessionkeeper.kubernetes.entry import certificates, own_control_groups

STARTED = "started"


def test_a_python_that_was_brought_in_knows_authorities_where_the_image_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = ssl.DefaultVerifyPaths(None, None, "", "", "", "")
    assert certificates({"SSL_CERT_FILE": "/of/the/image.pem"}) == {}
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    found = certificates({})["SSL_CERT_FILE"]
    assert ssl.create_default_context(cafile=found).cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize("container", [True, False])
def test_all_that_runs_makes_room_for_the_kernels_groups_in_a_container_alone(
    tmp_path: Path, container: bool
) -> None:
    """The files are plain ones here: what is written to them is what counts."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.procs").write_text("1\n7\n")
    if container:
        (tmp_path / "cgroup.events").write_text("populated 1\n")
    own_control_groups(tmp_path)
    assert (tmp_path / "agent").exists() is container
    assert (tmp_path / "cgroup.subtree_control").exists() is container
    if container:
        assert (tmp_path / "agent" / "cgroup.procs").read_text() == "7"
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_the_agent_is_started_again_and_what_it_started_lives_on(tmp_path: Path) -> None:
    """As a pod's: the kernel of a crashed agent is still there for the next one."""
    agent = tmp_path / "agent"
    agent.write_text(
        "#!/bin/sh\n"
        "trap 'echo told; exit 0' TERM\n"
        f'echo "{STARTED} $$"\n'
        f"test -e {tmp_path}/kernel || {{ sleep 1000 >/dev/null & echo $! >{tmp_path}/kernel; }}\n"
        "while :; do sleep 0.05; done\n"
    )
    agent.chmod(0o755)
    code = f"from sessionkeeper.nodes.init import keep_running; keep_running(['{agent}'], grace=20)"
    init = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert init.stdout is not None
    first = int(init.stdout.readline().split()[1])
    while not (tmp_path / "kernel").exists() or not (tmp_path / "kernel").read_text():
        pass
    kernel = int((tmp_path / "kernel").read_text())
    os.kill(first, signal.SIGKILL)
    word, second = init.stdout.readline().split()
    assert (word, int(second) != first) == (STARTED, True)
    os.kill(kernel, 0)
    init.send_signal(signal.SIGTERM)
    try:
        assert "told" in init.stdout.read()
        assert init.wait() == 0
    finally:
        os.kill(kernel, signal.SIGKILL)  # without a PID namespace it lives on
