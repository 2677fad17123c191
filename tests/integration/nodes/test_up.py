"""`sessionkeeper up`: starts, watches and ends its parts, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sessionkeeper.nodes import cgroups, processes
from sessionkeeper.nodes.local import cgroup_of

from .conftest import ROOT, Up

MakeUp = Callable[..., Up]
needs_root = pytest.mark.needs("root", "ip", "nft")


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([handle], [], [], 20)[0], f"{pid} lives on"
    os.close(handle)


def follow(up: Up, text: str) -> None:
    """Read what `up` says until a line has `text`."""
    for line in up.process.stderr:
        if text in line:
            return
    pytest.fail(f"it never said {text!r}")


@needs_root
def test_nodes_have_addresses_of_their_own_and_reach_the_gateway_on_the_bridge(up: MakeUp) -> None:
    running = up().start()
    hellos = running.hellos()
    assert set(hellos) == {"node-1", "node-2"}
    bridge = running.ask_gateway()["flags"]["agent-host"]
    addresses = {name: hello["from"] for name, hello in hellos.items()}
    assert len({*addresses.values(), bridge}) == 3
    assert {name: node["address"] for name, node in running.record()["nodes"].items()} == addresses
    spaces = {hello["netns"] for hello in hellos.values()} | {os.readlink("/proc/self/ns/net")}
    assert len(spaces) == 3
    assert all(hello["pid"] < 10 for hello in hellos.values()), "not in a PID namespace"


@needs_root
def test_node_sees_neither_store_nor_keys_nor_other_nodes(up: MakeUp) -> None:
    hello = up().start().hellos()["node-1"]
    assert hello["sees"] == ["nodes"]
    assert hello["token"]


@needs_root
def test_credentials_of_a_bucket_stay_with_the_gateway(up: MakeUp) -> None:
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush"}
    running = up(environ=secrets).start()
    assert set(secrets) <= {*running.ask_gateway()["credentials"]}
    assert [hello["credentials"] for hello in running.hellos().values()] == [[], []]


@needs_root
def test_url_and_tokens_stay_over_a_restart_and_no_secret_is_in_an_argv(up: MakeUp) -> None:
    running = up().start()
    first = running.url
    secrets = [running.state.token(name) for name in ("ui", "gateway", "agent")]
    for pid in processes.parts(running.state.id):
        argv = Path(f"/proc/{pid}/cmdline").read_text()
        assert not any(secret in argv for secret in secrets)
    assert running.stop() == 0
    logs = "".join(path.read_text() for path in (running.state.path / "logs").iterdir())
    assert not any(secret in logs for secret in secrets)
    assert running.start().url == first


@needs_root
def test_second_up_is_told_of_the_first(up: MakeUp) -> None:
    running = up().start()
    code, said = up().fail()
    assert code == 3
    assert running.url in said
    assert f"process {running.process.pid}" in said
    assert "sessionkeeper down" in said


@needs_root
def test_two_ups_run_side_by_side(up: MakeUp, tmp_path: Path) -> None:
    one, other = up(state=tmp_path / "one").start(), up(state=tmp_path / "other").start()
    assert one.stop() == 0
    assert one.leftovers() == {}
    assert set(other.hellos()) == {"node-1", "node-2"}
    assert other.command("node", "kill", "node-1").returncode == 0


@needs_root
def test_killed_node_takes_along_what_daemonised_on_it_and_its_data(up: MakeUp) -> None:
    running = up().start()
    init = running.record()["nodes"]["node-1"]["init"]
    assert len(running.on_nodes()) == 2
    done = running.command("node", "kill", "node-1")
    assert (done.returncode, done.stdout) == (0, "node-1 is gone\n")
    assert not Path(f"/proc/{init}").exists()
    assert len(running.on_nodes()) == 1
    assert os.listdir(running.state.nodes) == ["node-2"]
    assert list(running.record()["nodes"]) == ["node-2"]
    assert running.command("node", "kill", "node-1").returncode == 7


@needs_root
def test_killed_node_can_be_started_again_and_another_added(up: MakeUp) -> None:
    running = up().start()
    running.command("node", "kill", "node-1")
    assert running.command("node", "start").stdout == "node-1 is ready\n"
    assert running.command("node", "start").stdout == "node-3 is ready\n"
    assert running.hellos()["node-3"]["from"].endswith(".4")
    refused = running.command("node", "start", "node-1")
    assert refused.returncode == 2
    assert "node-1 runs already" in refused.stderr


@needs_root
def test_frozen_processes_die_with_their_node(up: MakeUp) -> None:
    running = up("--nodes", "1").start()
    name = cgroup_of(running.state.id, "node-1")
    freezer = next(
        (r for r in cgroups.hierarchies() if (r / "cgroup.freeze").exists() or r.name == "freezer"),
        None,
    )
    if freezer is None:
        pytest.skip("no freezer is mounted")
    group = freezer / name.strip("/") / "kernel"
    group.mkdir(parents=True)
    (victim,) = running.on_nodes()
    (group / "cgroup.procs").write_text(str(victim))
    if (group / "freezer.state").exists():
        (group / "freezer.state").write_text("FROZEN")
    else:
        (group / "cgroup.freeze").write_text("1")
    assert running.command("node", "kill", "node-1").returncode == 0
    assert running.on_nodes() == []
    assert not group.parent.exists()


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_orderly_end_stops_the_gateway_first_and_leaves_nothing(up: MakeUp, number: int) -> None:
    running = up().start()
    assert running.stop(number) == 0
    assert (running.state.path / "ended").read_text() == "gateway\nui\n"
    assert running.leftovers() == {}


@needs_root
def test_down_returns_when_everything_has_ended(up: MakeUp) -> None:
    running = up().start()
    done = running.command("down")
    assert (done.returncode, done.stdout) == (0, "stopped\n")
    assert running.leftovers() == {}
    assert running.command("down").returncode == 9


@needs_root
def test_up_after_a_killed_one_saves_the_session_cleans_up_and_starts(up: MakeUp) -> None:
    running = up().start()
    old = running.on_nodes()
    running.stop(signal.SIGKILL)
    assert {"processes", "links", "tables", "nodes"} <= set(running.leftovers())
    running.start()
    assert (running.state.path / "ended").read_text() == "gateway\n"
    assert len(running.on_nodes()) == 2
    assert not set(old) & set(running.on_nodes())
    assert running.stop() == 0
    assert running.leftovers() == {}


@needs_root
def test_down_cleans_up_after_a_killed_up(up: MakeUp) -> None:
    running = up().start()
    running.stop(signal.SIGKILL)
    assert running.command("status").returncode == 9
    assert running.command("down").returncode == 0
    assert running.leftovers() == {}


@needs_root
@pytest.mark.parametrize("part", ["gateway", "ui", "node-1"])
def test_part_that_dies_is_started_again_and_that_is_said(up: MakeUp, part: str) -> None:
    running = up().start()
    if part == "node-1":
        victims = [running.record()["nodes"][part]["init"]]
    else:
        victims = [pid for pid, name in processes.parts(running.state.id).items() if name == part]
    for pid in victims:
        kill(pid)
    follow(running, f"{part} ended (")
    follow(running, f"{part} is back")
    assert f"{part} ended" in running.state.log("up").read_text()
    assert running.stop() == 0
    assert running.leftovers() == {}


@needs_root
def test_agent_that_crashes_is_started_again_and_its_processes_live_on(up: MakeUp) -> None:
    running = up("--nodes", "1").start()
    kernel = running.on_nodes()
    init = running.record()["nodes"]["node-1"]["init"]
    (agent,) = (
        pid
        for pid in processes.children_of(init)
        if b"stand_in.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    kill(agent)
    assert len(running.ask_gateway(hellos=2)["hellos"]) == 2
    assert set(kernel) <= set(running.on_nodes())
    assert "the agent ended (SIGKILL)" in running.state.log("node-1").read_text()


@needs_root
@pytest.mark.parametrize(
    ("role", "what"),
    [
        ("gateway", "gateway ended (exit status 1)"),
        ("ui", "ui ended (exit status 1)"),
        ("agent", "failed to start"),
    ],
)
def test_part_that_cannot_start_is_named_with_the_end_of_its_log(
    up: MakeUp, role: str, what: str
) -> None:
    failing = up(environ={"STAND_IN_FAILS": role})
    code, said = failing.fail()
    assert code == 1
    assert what in said
    assert f"the {role} cannot start: no such luck" in said
    assert f"its log: {failing.state.path}/logs/" in said
    assert failing.leftovers() == {}


@needs_root
def test_what_a_part_says_by_its_exit_code_is_said_by_up(up: MakeUp) -> None:
    assert up(environ={"STAND_IN_FAILS": "gateway", "STAND_IN_CODE": "11"}).fail()[0] == 11


def test_taken_port_ends_it_before_anything_starts(up: MakeUp) -> None:
    refused = up()
    with socket.create_server(("127.0.0.1", refused.port)):
        code, said = refused.fail()
    assert code == 4
    assert f"process {os.getpid()}" in said
    assert refused.leftovers() == {}


def test_store_that_cannot_be_written_ends_it_before_anything_starts(up: MakeUp) -> None:
    code, said = up("--store", "/proc/store").fail()
    assert code == 5
    assert "/proc/store" in said
    assert up("--store", "gopher://x").fail()[0] == 5


@needs_root
def test_criu_that_is_not_there_is_error_6(tmp_path: Path) -> None:
    words = ["up", "--runtime", "container", "--criu", "/nowhere/criu", "--state", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sessionkeeper", *words, "--port", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2  # port 0 is no port: settings come first
    done = subprocess.run(
        [sys.executable, "-m", "sessionkeeper", *words, "--port", "18999"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 6, done.stderr
    assert "/nowhere/criu" in done.stderr
    assert "hint:" in done.stderr


@needs_root
def test_without_ui_there_is_none(up: MakeUp) -> None:
    running = up("--no-ui", "--nodes", "1").start()
    assert set(processes.parts(running.state.id).values()) == {"gateway", "node-1"}


@needs_root
def test_second_ctrl_c_does_not_wait_for_a_part_that_hangs(up: MakeUp) -> None:
    running = up("--nodes", "1").start()
    (gateway,) = (
        pid for pid, name in processes.parts(running.state.id).items() if name == "gateway"
    )
    os.kill(gateway, signal.SIGSTOP)  # it will not react to SIGTERM
    running.process.send_signal(signal.SIGINT)
    follow(running, "stopping")
    running.process.send_signal(signal.SIGINT)
    handle = os.pidfd_open(running.process.pid)
    assert select.select([handle], [], [], 10)[0], "it still waits"
    os.close(handle)
    assert running.leftovers() == {}
