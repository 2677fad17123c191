"""Small decisions: ports, subnets, delays, words."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Network

import pytest

from sessionkeeper.cli.running import described
from sessionkeeper.errors import PortTaken, UsageError
from sessionkeeper.keeper.status import CheckpointFacts, Status
from sessionkeeper.nodes.network import NetworkError, choose_subnet
from sessionkeeper.up.ports import choose_port, require_port
from sessionkeeper.up.supervisor import restart_delay


@pytest.fixture
def listener() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_taken_port_is_refused_with_the_name_of_who_has_it(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(PortTaken) as caught:
        require_port("127.0.0.1", port)
    assert str(port) in str(caught.value)
    assert f"(process {os.getpid()})" in str(caught.value)
    assert "--port" in caught.value.hint
    assert caught.value.exit_code == 4


def test_port_search_steps_over_what_is_taken(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert choose_port(["127.0.0.1"], port) > port


def test_address_that_is_not_ours_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="192\\.0\\.2\\.77"):
        require_port("192.0.2.77", 8888)


def test_subnet_avoids_what_is_in_use_and_depends_on_the_seed_alone() -> None:
    free = choose_subnet(3, [])
    assert free == choose_subnet(3, []) == IPv4Network("10.213.3.0/24")
    assert choose_subnet(3, [IPv4Network("10.213.3.128/25")]) == IPv4Network("10.213.4.0/24")
    assert not choose_subnet(3, [IPv4Network("10.213.0.0/16")]).overlaps(
        IPv4Network("10.213.0.0/16")
    )


def test_default_route_over_a_tunnel_leaves_no_subnet() -> None:
    with pytest.raises(NetworkError, match="no private network"):
        choose_subnet(0, [IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")])


def test_restarts_slow_down_and_stay_bounded() -> None:
    delays = [restart_delay(failures) for failures in range(1, 12)]
    assert delays == sorted(delays)
    assert delays[0] < 1
    assert delays[-1] == 10.0


def test_status_in_words() -> None:
    status = Status("default", state="running", node="node-1", runtime="container")
    assert described(status.json(), now=0.0) == [
        "session      default: running",
        "node         node-1 (container)",
        "checkpoint   none yet",
    ]
    status.say("moved from node-2")
    status.warn("store", "the store does not answer")
    status.update(checkpoint=CheckpointFacts(7, 995.0, 10, 48_000_000, 0.1))
    lines = described(status.json(), now=1000.0)
    assert lines[2] == "checkpoint   number 7, 5 s old, 48 MB"
    assert lines[3] == "warning      the store does not answer"
    assert lines[4].endswith("moved from node-2")
