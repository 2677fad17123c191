"""Which CRIU is used, and what is said when none can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sessionkeeper import criu
from sessionkeeper.errors import CriuMissing, CriuTooOld, CriuUnusable


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path


def of_version(path: Path, version: str, check: str = "echo Looks good.") -> Path:
    return program(
        path, f'if [ "$1" = --version ]; then echo Version: {version}; else {check}; fi\n'
    )


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment in which no CRIU of this machine is seen."""
    return {"SESSIONKEEPER_CRIU_DIR": str(tmp_path / "bundle"), "PATH": str(tmp_path / "bin")}


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Version: 4.2.1\n", (4, 2, 1)),
        ("Version: 3.17.1\nGitID: v3.17.1\n", (3, 17, 1)),
        ("Version: v4.2\n", (4, 2)),
        ("Segmentation fault", ()),
        ("", ()),
    ],
)
def test_version_is_read_from_what_criu_says(said: str, version: tuple[int, ...]) -> None:
    assert criu.parse_version(said) == version


def test_bundle_is_preferred_to_path(machine: dict[str, str], tmp_path: Path) -> None:
    of_version(tmp_path / "bin/criu", "4.3")
    bundle = of_version(tmp_path / "bundle/criu", "4.2")
    assert criu.find(machine) == criu.Criu(bundle, (4, 2))


def test_recent_one_on_path_is_preferred_to_old_bundle(
    machine: dict[str, str], tmp_path: Path
) -> None:
    recent = of_version(tmp_path / "bin/criu", "4.3")
    of_version(tmp_path / "bundle/criu", "4.1.1")
    assert criu.find(machine) == criu.Criu(recent, (4, 3))


def test_one_the_user_names_is_the_only_one_looked_at(
    machine: dict[str, str], tmp_path: Path
) -> None:
    of_version(tmp_path / "bundle/criu", "4.2")
    named = of_version(tmp_path / "mine", "3.17.1")
    machine["SESSIONKEEPER_CRIU"] = str(named)
    with pytest.raises(CriuTooOld, match=r"3\.17\.1 .*mine.* too old.* 4\.2 is needed"):
        criu.require(machine)
    named.unlink()
    with pytest.raises(CriuMissing, match="mine, which is not there"):
        criu.require(machine)


def test_missing_criu_is_said_with_the_command_that_installs_it(
    machine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu, "candidates", lambda environ: [])
    with pytest.raises(CriuMissing) as caught:
        criu.require(machine)
    assert "sessionkeeper setup criu" in caught.value.hint
    assert caught.value.exit_code == 6


def test_criu_that_does_not_start_is_said_with_its_own_words(
    machine: dict[str, str], tmp_path: Path
) -> None:
    broken = program(tmp_path / "broken", "echo vdso: cannot parse >&2; exit 1\n")
    machine["SESSIONKEEPER_CRIU"] = str(broken)
    with pytest.raises(CriuUnusable, match="cannot be run: vdso: cannot parse"):
        criu.require(machine)


def test_failed_check_is_said_with_the_reason(
    machine: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    failing = "echo 'Error (criu/x.c:1): no ptrace'; echo trailer; exit 1"
    machine["SESSIONKEEPER_CRIU"] = str(of_version(tmp_path / "criu", "4.2.1", failing))
    with pytest.raises(CriuUnusable, match="no ptrace"):
        criu.require(machine)


def test_without_root_criu_is_refused_with_a_way_out(
    machine: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    machine["SESSIONKEEPER_CRIU"] = str(of_version(tmp_path / "criu", "4.2.1"))
    with pytest.raises(CriuUnusable, match="only root") as caught:
        criu.require(machine)
    assert "--runtime process" in caught.value.hint


@pytest.mark.container  # as root, to be somebody else for a moment
def test_one_in_a_directory_that_the_user_may_not_see_is_not_there(tmp_path: Path) -> None:
    path = of_version(tmp_path / "of-root" / "criu", "4.2")
    path.parent.chmod(0o700)
    assert criu.examine(path) is not None
    os.seteuid(65534)
    try:
        assert criu.examine(path) is None
    finally:
        os.seteuid(0)
