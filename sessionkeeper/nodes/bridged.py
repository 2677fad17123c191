"""The network of one instance's nodes: a bridge, a private subnet, a way out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from sessionkeeper.nodes import network

__all__ = ["BridgedNetwork"]

_LOCK = "/run/lock/sessionkeeper-network"


class BridgedNetwork:
    """Bridge `skbr-<instance>`, links `skve-<instance>-<index>`, nft table
    `sessionkeeper-<instance>`. The bridge has the first address of its subnet, node `index` (from
    0) the one `index + 2`. Every method may raise NetworkError."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._bridge = f"skbr-{instance}"
        self._table = f"sessionkeeper-{instance}"
        self._subnet: IPv4Network | None = None

    @property
    def address(self) -> IPv4Address:
        """The bridge's: where nodes find this machine."""
        return self._interface(1).ip

    def node_address(self, index: int) -> IPv4Address:
        """That of a node."""
        return self._interface(index + 2).ip

    def create(self) -> None:
        """Make bridge and address translation on a subnet that nothing here uses."""
        with _one_at_a_time():
            taken = network.taken_networks()
            self._subnet = network.choose_subnet(int(self._instance, 16), taken)
            network.bridge(self._bridge, self._interface(1))
        network.masquerade(self._table, self._subnet, inside=self._bridge)
        network.forward(self._bridge, *network.uplinks())

    def connect(self, index: int, pid: int) -> None:
        """Give the network namespace of a process the link and address of a node."""
        link, netns = self._link(index), network.netns_of(pid)
        network.delete_link(link)
        network.loopback_up(netns)
        here = network.End(link)
        network.veth(here, network.End("eth0", netns, self._interface(index + 2)))
        network.set_link(link, master=self._bridge)
        network.default_route(self.address, netns)

    def cut(self, index: int) -> None:
        """From now on no packet leaves or reaches a node."""
        network.set_link(self._link(index), up=False)

    def disconnect(self, index: int) -> None:
        """Remove a node's link. Idempotent."""
        network.delete_link(self._link(index))

    def remove(self) -> None:
        """Remove everything that an instance of this name made, whoever made it. Idempotent."""
        mine = [one for one in network.links() if one.startswith(f"skve-{self._instance}-")]
        for link in [*mine, self._bridge]:
            network.delete_link(link)
        network.delete_table(self._table)

    def _link(self, index: int) -> str:
        return f"skve-{self._instance}-{index}"

    def _interface(self, number: int) -> IPv4Interface:
        assert self._subnet is not None, "create() comes first"
        return IPv4Interface((self._subnet[number], self._subnet.prefixlen))


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two instances that start at once must not choose the same subnet."""
    handle = os.open(_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
