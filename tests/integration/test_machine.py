"""The doctor on the machine that runs the tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionkeeper import doctor
from sessionkeeper.machine import Facts, examine


def as_nobody(call: Callable[[], Facts]) -> Facts:
    """Result of `call` in a process that has given up root for good."""

    def child(answer: multiprocessing.connection.Connection) -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        answer.send(call())

    fork = multiprocessing.get_context("fork")
    mine, theirs = fork.Pipe()
    process = fork.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    finally:
        process.join()


@pytest.mark.container
def test_root_gets_containers_and_nothing_is_left_behind(tmp_path: Path) -> None:
    def traces() -> tuple[str, list[str], list[str]]:
        groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/*sk-trial*")]
        return Path("/proc/self/mounts").read_text(), groups, os.listdir(tmp_path)

    before = traces()
    facts = examine(tmp_path)
    assert facts.trial == ""
    assert doctor.decide(facts) == doctor.Verdict(
        "container", ("everything it needs was tried and works",), ()
    )
    assert traces() == before


@pytest.mark.needs("root")
def test_other_users_get_processes_and_are_told_why(tmp_path: Path) -> None:
    facts = as_nobody(lambda: examine(tmp_path))
    verdict = doctor.decide(facts)
    assert verdict.runtime == "process"
    assert verdict.reasons[0].startswith("root: not root")
    assert verdict.commands[0].startswith("sudo ")


@pytest.mark.container
def test_criu_that_is_too_old_gives_processes_and_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "criu"
    old.write_text("#!/bin/sh\necho Version: 3.17.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("SESSIONKEEPER_CRIU", str(old))
    verdict = doctor.decide(examine(tmp_path))
    assert verdict.runtime == "process"
    assert "3.17.1" in verdict.reasons[0]
    assert verdict.commands == ("sessionkeeper setup criu",)


def test_json_is_one_object_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json", "--state", str(tmp_path / "not/there")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runtime"] in ("container", "process")
    assert not (tmp_path / "not").exists()


@pytest.mark.container
def test_overlay_that_cannot_be_mounted_is_found_out(tmp_path: Path) -> None:
    """An upper directory on another overlay is what a state directory in a container image has."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    merged = tmp_path / "merged"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        facts = examine(merged)
    finally:
        subprocess.run(["umount", merged], check=True)
    verdict = doctor.decide(facts)
    assert verdict.runtime == "process"
    assert any(reason.startswith("overlayfs") for reason in verdict.reasons)
    assert "put --state on a plain file system such as ext4 or tmpfs" in verdict.commands
