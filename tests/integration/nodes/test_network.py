"""Real network namespaces, links and address translation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from sessionkeeper.agent.namespaces import connect_in
from sessionkeeper.nodes import network
from sessionkeeper.nodes.network import End, NetworkError

pytestmark = pytest.mark.needs("root", "ip", "nft")

# Run in a namespace: answer one connection with the address it comes from.
SERVER = """
import socket
server = socket.create_server((%r, 0))
print(server.getsockname()[1], flush=True)
connection, peer = server.accept()
connection.sendall(peer[0].encode())
"""
CLIENT = "import socket; print(socket.create_connection((%r, %d), 2).recv(99).decode())"


@pytest.fixture
def netns() -> Iterator[Callable[[str], Path]]:
    made = []

    def make(name: str) -> Path:
        made.append(f"sktest-{os.getpid()}-{name}")
        return network.create_netns(made[-1])

    yield make
    for name in made:
        network.delete_netns(name)


def python(netns: Path, script: str) -> subprocess.Popen[str]:
    command = ["nsenter", f"--net={netns}", "--", sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def address_seen(server_in: Path, address: str, client_in: Path) -> str:
    """The address that a server in one namespace sees a client in another come from."""
    server = python(server_in, SERVER % address)
    port = int(server.stdout.readline())
    seen, trouble = python(client_in, CLIENT % (address, port)).communicate(timeout=20)
    server.kill()
    server.communicate()
    return seen.strip() or trouble.splitlines()[-1]


def test_session_inside_a_node_reaches_the_world_under_the_nodes_address(
    netns: Callable[[str], Path],
) -> None:
    """kernel -- node -- outside: the kernel's packets leave the node with the node's address."""
    kernel, node, outside = netns("kernel"), netns("node"), netns("outside")
    inner, outer = IPv4Network("10.66.0.0/30"), IPv4Network("10.66.1.0/30")
    for one in (kernel, node, outside):
        network.loopback_up(one)
    network.veth(
        End("session", node, IPv4Interface("10.66.0.1/30")),
        End("eth0", kernel, IPv4Interface("10.66.0.2/30")),
    )
    network.veth(
        End("eth0", node, IPv4Interface("10.66.1.1/30")),
        End("eth0", outside, IPv4Interface("10.66.1.2/30")),
    )
    network.default_route(IPv4Address("10.66.0.1"), kernel)
    network.forward("all", netns=node)
    network.masquerade("session", inner, inside="session", netns=node)
    assert address_seen(outside, "10.66.1.2", kernel) == "10.66.1.1"
    assert {inner, outer} <= network.taken_networks(node)
    network.masquerade("session", inner, inside="session", netns=node)  # replaces
    network.delete_table("session", node)
    network.delete_table("session", node)


def test_outside_cannot_open_connections_to_what_is_inside(netns: Callable[[str], Path]) -> None:
    kernel, node, outside = netns("kernel"), netns("node"), netns("outside")
    network.veth(
        End("session", node, IPv4Interface("10.66.0.1/30")),
        End("eth0", kernel, IPv4Interface("10.66.0.2/30")),
    )
    network.veth(
        End("eth0", node, IPv4Interface("10.66.1.1/30")),
        End("eth0", outside, IPv4Interface("10.66.1.2/30")),
    )
    network.default_route(IPv4Address("10.66.0.1"), kernel)
    network.default_route(IPv4Address("10.66.1.1"), outside)
    network.forward("all", netns=node)
    assert address_seen(kernel, "10.66.0.2", outside) == "10.66.1.2"
    network.masquerade("session", IPv4Network("10.66.0.0/30"), inside="session", netns=node)
    assert "timed out" in address_seen(kernel, "10.66.0.2", outside)


def test_link_that_is_down_lets_nothing_through(netns: Callable[[str], Path]) -> None:
    one, other = netns("one"), netns("other")
    network.veth(
        End("eth0", one, IPv4Interface("10.66.0.1/30")),
        End("eth0", other, IPv4Interface("10.66.0.2/30")),
    )
    assert address_seen(one, "10.66.0.1", other) == "10.66.0.2"
    network.set_link("eth0", up=False, netns=one)
    trouble = address_seen_or_error(one, other)
    assert "10.66.0.2" not in trouble
    network.delete_link("eth0", one)
    network.delete_link("eth0", one)
    assert network.links(one) == network.links(other) == ["lo"]


def address_seen_or_error(one: Path, other: Path) -> str:
    client = python(other, CLIENT % ("10.66.0.1", 9))
    return "".join(client.communicate(timeout=20)).splitlines()[-1]


def test_links_that_come_and_go_bring_the_machine_no_addresses(
    netns: Callable[[str], Path],
) -> None:
    """Else browsers on it break off what their pages are loading."""
    bridge, link = f"skb{os.getpid()}", f"skl{os.getpid()}"
    there = netns("there")
    network.bridge(bridge, IPv4Interface("10.250.8.1/24"))
    try:
        network.veth(End(link), End("eth0", there))
        network.set_link(link, master=bridge)
        for name in (bridge, link):
            shown = subprocess.check_output(["ip", "-6", "address", "show", "dev", name], text=True)
            assert shown == "", "also while it is tentative"
    finally:
        network.delete_link(link)
        network.delete_link(bridge)


def test_what_the_tool_refuses_is_told_in_its_words(netns: Callable[[str], Path]) -> None:
    netns("one")
    with pytest.raises(NetworkError, match="File exists"):
        network.create_netns(f"sktest-{os.getpid()}-one")
    with pytest.raises(NetworkError, match="no-such-link"):
        network.set_link("no-such-link", up=True)
    network.delete_netns("sktest-never-was")


def test_a_port_where_nobody_listens_refuses_also_who_was_given_that_port(
    netns: Callable[[str], Path],
) -> None:
    namespace = netns("self")
    ip = ["ip", "netns", "exec", namespace.name]
    subprocess.run([*ip, "ip", "link", "set", "lo", "up"], check=True)
    # Each second connection to one of these two ports comes from the same port.
    ports = "echo 21000 21001 >/proc/sys/net/ipv4/ip_local_port_range"
    subprocess.run([*ip, "sh", "-c", ports], check=True)
    for attempt in range(40):
        with pytest.raises(ConnectionRefusedError):
            connect_in(namespace, ("127.0.0.1", 21000 + attempt % 2), timeout=1.0).close()
