"""Which runtime a machine gets, and what a person is told about it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sessionkeeper import doctor
from sessionkeeper.errors import RuntimeUnavailable, UsageError
from sessionkeeper.machine import Facts

GB = 10**9
GOOD = Facts(
    system="Debian GNU/Linux 12 (bookworm), Linux 6.18, x86_64",
    debian=True,
    prefix="/opt/sk",
    cpus=2,
    memory=8 * GB,
    root=True,
    namespaces={"net": "", "pid": "", "mount": ""},
    runc="runc version 1.1.5",
    criu="CRIU 4.2.1 (/usr/sbin/criu)",
    trial="",
    dirty_tracking=True,
    lazy_restore=True,
    kernels=("ir", "python3"),
    dump_room=4 * GB,
    disk="/var/lib/sessionkeeper",
    disk_room=50 * GB,
)
SETUP = "run `sessionkeeper setup criu` as root"
NO_CRIU = replace(GOOD, criu="", criu_trouble="CRIU was not found", criu_hint=SETUP, trial=None)
NOT_ROOT = replace(
    GOOD,
    root=False,
    namespaces={"net": "Operation not permitted", "pid": "Operation not permitted", "mount": ""},
    overlay="only root can mount",
    overlay_on_root="only root can mount",
    freezer="only root can freeze processes",
    criu_trouble="CRIU 4.2.1 is there, but only root can use it",
    criu_hint="run as root",
    trial=None,
)


def test_container_is_chosen_where_everything_works() -> None:
    assert doctor.decide(GOOD).runtime == "container"
    assert doctor.decide(GOOD).commands == ()


@pytest.mark.parametrize(
    ("facts", "reason", "command"),
    [
        (NO_CRIU, "criu: CRIU was not found", "sessionkeeper setup criu"),
        (
            replace(GOOD, criu_trouble="CRIU 3.17.1 is too old", criu_hint=SETUP, trial=None),
            "criu: CRIU 3.17.1 is too old",
            "sessionkeeper setup criu",
        ),
        (
            replace(GOOD, runc="", runc_trouble="it is not installed"),
            "runc: it is not installed",
            "apt-get install runc",
        ),
        (
            replace(GOOD, runc="", runc_trouble="it is not installed", debian=False),
            "runc: it is not installed",
            "install runc",
        ),
        (
            replace(GOOD, tools_missing=("ip", "nft", "mount")),
            "tools: not installed: ip, nft, mount",
            "apt-get install iproute2 nftables util-linux",
        ),
        (
            replace(GOOD, overlay="wrong fs type"),
            "overlayfs: wrong fs type",
            "put --state on a plain file system such as ext4 or tmpfs",
        ),
        (
            replace(GOOD, overlay_on_root="too many levels"),
            "overlayfs: over /: too many levels",
            "put --state on a plain file system such as ext4 or tmpfs",
        ),
        (
            replace(GOOD, namespaces={"net": "Operation not permitted", "pid": ""}),
            "namespaces: net: Operation not permitted",
            "run it where namespaces are allowed (in Docker: --privileged)",
        ),
        (
            replace(GOOD, freezer="Read-only file system"),
            "freezer: Read-only file system",
            "mount control groups writable (in Docker: --privileged)",
        ),
        (
            replace(GOOD, trial="the kernel could not be dumped: SO_PASSCRED"),
            "checkpoint: the kernel could not be dumped: SO_PASSCRED",
            "report it with the output of `sessionkeeper doctor --json`",
        ),
    ],
)
def test_any_part_that_does_not_work_gives_process_and_says_what_helps(
    facts: Facts, reason: str, command: str
) -> None:
    verdict = doctor.decide(facts)
    assert verdict == doctor.Verdict("process", (reason,), (command,))


def test_without_root_that_is_the_one_reason_given() -> None:
    verdict = doctor.decide(NOT_ROOT)
    assert verdict.runtime == "process"
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["root"]
    assert verdict.commands == ("sudo /opt/sk/bin/sessionkeeper up",)


def test_without_a_python_kernel_nothing_can_run() -> None:
    verdict = doctor.decide(replace(GOOD, kernels=("ir",)))
    assert verdict.runtime is None
    assert verdict.commands == ("/opt/sk/bin/python -m ipykernel install --sys-prefix",)


@pytest.mark.parametrize(
    "facts",
    [
        replace(GOOD, memory=GB // 2, dump_room=0, disk_room=GB),
        replace(GOOD, dirty_tracking=False),
        replace(GOOD, lazy_restore=False),
        replace(GOOD, kernels_broken={"julia": "julia is not there"}),
    ],
)
def test_what_is_scarce_or_not_needed_is_said_and_prevents_nothing(facts: Facts) -> None:
    assert doctor.decide(facts).runtime == "container"
    assert any(row.state != "ok" for row in doctor.rows(facts))


def test_auto_follows_the_verdict_and_container_is_refused_with_the_reason() -> None:
    assert doctor.choose_runtime("auto", GOOD) == "container"
    assert doctor.choose_runtime("process", GOOD) == "process"
    assert doctor.choose_runtime("auto", NO_CRIU) == "process"
    with pytest.raises(RuntimeUnavailable, match="criu: CRIU was not found") as caught:
        doctor.choose_runtime("container", NO_CRIU)
    assert caught.value.hint == "sessionkeeper setup criu"
    with pytest.raises(UsageError, match="'docker'"):
        doctor.choose_runtime("docker", GOOD)


def test_report_names_runtime_reason_and_command() -> None:
    report = doctor.render(NO_CRIU)
    assert "Sessions run in the runtime `process`, because" in report
    assert "missing  criu" in report
    assert report.endswith("To get `container`:\n  sessionkeeper setup criu")


def test_json_says_the_same_as_the_report() -> None:
    told = json.loads(doctor.as_json(NO_CRIU))
    assert told["runtime"] == "process"
    assert told["commands"] == ["sessionkeeper setup criu"]
    assert {"name", "state", "text", "needed_for", "fix"} == set(told["rows"][0])


def test_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--yaml"]) == 2
    assert "hint: sessionkeeper doctor [--json]" in capsys.readouterr().err
