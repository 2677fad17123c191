"""What user code in a container can see and do: nothing of the node, and nothing of others.

The probe below runs as a kernel would, in a container made the way kernels' are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionkeeper.agent import oci, rootfs
from sessionkeeper.agent.oci import CONTROL_DIR, HOME, USER_ID, Bind, Container, config
from sessionkeeper.agent.roots import python_prefixes

PROBE = r"""
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(number, *[ctypes.c_long(a) for a in arguments])
    if done == 0 and number == 56:
        os._exit(0)
    return "done" if done >= 0 else errno.errorcode[ctypes.get_errno()]

def attempt(what):
    try:
        return what()
    except OSError as error:
        return errno.errorcode[error.errno]

asked = json.loads(sys.argv[1])
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
child = os.fork() or os._exit(7)
print(json.dumps({
    "status": status,
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "namespaces": {n: os.readlink(f"/proc/self/ns/{n}") for n in asked["namespaces"]},
    "calls": {name: call(*arguments) for name, arguments in asked["calls"].items()},
    "lists": {p: attempt(lambda: os.listdir(p)) for p in asked["lists"]},
    "reads": {p: attempt(lambda: open(p).read()) for p in asked["reads"]},
    "writes": {p: attempt(lambda: open(p, "w").close() or "done") for p in asked["writes"]},
    "fork": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]),
    "processes": [p for p in os.listdir("/proc") if p.isdigit()],
    "cwd": os.getcwd(),
    "setuid": attempt(lambda: os.setuid(0)),
}))
"""
NEW_USER, NEW_NS = 0x10000000, 0x00020000
# x86-64 numbers; what each would give user code is in its name.
CALLS: dict[str, list[int]] = {
    "unshare user": [272, NEW_USER],
    "unshare mount": [272, NEW_NS],
    "clone user": [56, NEW_USER | 17, 0, 0, 0, 0],
    "mount": [165, 0, 0, 0, 0, 0],
    "umount2": [166, 0, 0],
    "pivot_root": [155, 0, 0],
    "setns": [308, 0, 0],
    "bpf": [321, 0, 0, 0],
    "keyctl": [250, 0, 0],
    "add_key": [248, 0, 0, 0, 0, 0],
    "perf_event_open": [298, 0, 0, 0, 0, 0],
    "userfaultfd": [323, 0],
    "io_uring_setup": [425, 1, 0],
    "open_by_handle_at": [304, 0, 0, 0],
    "kexec_load": [246, 0, 0, 0, 0],
    "init_module": [175, 0, 0, 0],
    "fsopen": [430, 0, 0],
    "open_tree": [428, 0, 0, 0],
    "sethostname": [170, 0, 0],
    "reboot": [169, 0, 0, 0, 0],
}
NAMESPACES = ("pid", "mnt", "ipc", "uts", "net")


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """A node's data directory where anybody could get at it, with what must not be got at."""
    base = Path(tempfile.mkdtemp(prefix="sessionkeeper-test-", dir="/var/lib"))
    base.chmod(0o755)
    for secret in SECRETS:
        path = base / secret
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    yield base
    shutil.rmtree(base)


SECRETS = (
    "data/ledger/one.session",
    "data/sessions/other-3/upper/home/jovyan/notes.txt",
    "data/sessions/other-3/slots/kernel-42001/control/epoch",
)


def run(node: Path, *arguments: str) -> str:
    """Run Python in a container over a root file system of its own; its output."""
    layers = rootfs.Layers(node / "data" / "sessions" / "one-1")
    name = f"sk-probe-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        rootfs.create_upper(layers.upper)
        rootfs.hide(layers.upper, [node / "data"])
        rootfs.prepare_mount_points(layers.upper)
        rootfs.mount(layers)
        control = node / "data" / "control"
        control.mkdir(exist_ok=True)
        (control / "epoch").write_text("0000000001")
        binds = (*(Bind(p, str(p)) for p in python_prefixes()), Bind(control, CONTROL_DIR))
        container = Container(
            name=name,
            rootfs=layers.root,
            network=Path("/run/netns") / name,
            cgroup=f"/sessionkeeper-tests/{name}",
            argv=(sys.executable, *arguments),
            criu_config=Path("/dev/null"),
            binds=binds,
            memory=512 << 20,
        )
        bundle = node / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(config(container)))
        runc = ["runc", "--root", str(node / "runc"), "run", "--bundle", str(bundle), name]
        done = subprocess.run(runc, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        return done.stdout
    finally:
        rootfs.unmount(layers)
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="module")
def seen(node: Path) -> dict[str, Any]:
    asked = {
        "namespaces": NAMESPACES,
        "calls": CALLS,
        "lists": ["/root", "/home", "/tmp", "/run", str(node), str(node / "data")],
        "reads": [*(str(node / s) for s in SECRETS), "/etc/shadow", f"{CONTROL_DIR}/epoch"],
        "writes": [f"{HOME}/mine", "/etc/x", "/usr/x", f"{CONTROL_DIR}/epoch", "/proc/sys/vm/x"],
    }
    found: dict[str, Any] = json.loads(run(node, "-c", PROBE, json.dumps(asked)))
    return found


pytestmark = pytest.mark.container


def test_user_code_is_nobody_and_cannot_become_anybody(seen: dict[str, Any]) -> None:
    assert set(seen["uid"]) == set(seen["gid"]) == {USER_ID}
    assert set(seen["groups"]) <= {USER_ID}
    assert {seen["status"][f"Cap{k}"].strip("0") for k in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {
        ""
    }
    assert seen["status"]["NoNewPrivs"] == "1"
    assert seen["status"]["Seccomp"] == "2"
    assert seen["setuid"] == "EPERM"


def test_user_code_is_in_namespaces_of_its_own(seen: dict[str, Any]) -> None:
    for name in NAMESPACES:
        assert seen["namespaces"][name] != os.readlink(f"/proc/self/ns/{name}"), name
    assert seen["processes"] == ["1"]  # there is nobody else to trace


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the probe's call numbers are x86-64's")
@pytest.mark.parametrize("call", CALLS)
def test_calls_that_reach_into_the_kernel_are_refused(seen: dict[str, Any], call: str) -> None:
    assert seen["calls"][call] == "EPERM"


def test_ordinary_programs_work(seen: dict[str, Any]) -> None:
    assert seen["fork"] == 7
    assert seen["cwd"] == HOME
    assert seen["writes"][f"{HOME}/mine"] == "done"
    assert seen["reads"][f"{CONTROL_DIR}/epoch"] == "0000000001"


def test_user_code_sees_nothing_of_the_node(seen: dict[str, Any], node: Path) -> None:
    python = {p.parts[2] for p in python_prefixes() if p.is_relative_to("/root")}
    assert set(seen["lists"]["/root"]) == python
    assert seen["lists"]["/tmp"] == []
    assert seen["lists"]["/home"] == ["jovyan"]
    assert set(seen["lists"]["/run"]) == {"kernel", "sessionkeeper"}
    assert seen["lists"][str(node / "data")] == []
    for secret in SECRETS:
        assert seen["reads"][str(node / secret)] == "ENOENT"
    assert seen["reads"]["/etc/shadow"] == "EACCES"


def test_user_code_changes_nothing_but_its_own(seen: dict[str, Any]) -> None:
    assert seen["writes"]["/etc/x"] == seen["writes"]["/usr/x"] == "EACCES"
    assert seen["writes"][f"{CONTROL_DIR}/epoch"] in {"EROFS", "EACCES"}
    assert seen["writes"]["/proc/sys/vm/x"] != "done"


def test_what_was_written_is_in_the_upper_layer(seen: dict[str, Any], node: Path) -> None:
    mine = node / "data/sessions/one-1/upper" / HOME.lstrip("/") / "mine"
    assert mine.stat().st_uid == USER_ID


def test_nothing_in_the_root_waits_for_the_disk_and_it_is_mounted_again_after_a_crash(
    tmp_path: Path,
) -> None:
    layers = rootfs.Layers(tmp_path / "one-1")
    rootfs.create_upper(layers.upper)
    for _ in range(2):  # what is left after the first is what a machine that went leaves
        rootfs.mount(layers)
        try:
            mounts = Path("/proc/self/mounts").read_text().splitlines()
            [mine] = [line for line in mounts if line.split()[1] == str(layers.root)]
            # Newer kernels call it `fsync=volatile` there.
            options = mine.split()[3].split(",")
            assert {rootfs.VOLATILE, f"fsync={rootfs.VOLATILE}"} & set(options)
            assert (layers.work / "work" / "incompat" / "volatile").exists()
        finally:
            subprocess.run(["umount", str(layers.root)], check=True)


def test_every_refused_call_has_a_name_the_filter_knows() -> None:
    assert len(oci.REFUSED_SYSCALLS) == len(set(oci.REFUSED_SYSCALLS))
    assert {"mount", "unshare", "setns", "bpf", "keyctl"} <= set(oci.REFUSED_SYSCALLS)
