"""Network namespaces, links and address translation, by `ip`, `nft` and `nsenter`.

Every function works in the caller's network namespace or, with `netns`, in another one, named by
the path of its file: `netns_of(pid)`, or what `create_netns` returned. All of it works inside a
node as well. They raise `NetworkError` with what the program said.

`nsenter` rather than `ip netns exec`: the latter mounts a new /sys, which hides the cgroups.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from sessionkeeper.errors import SessionkeeperError

__all__ = [
    "End",
    "NetworkError",
    "bridge",
    "choose_subnet",
    "create_netns",
    "default_route",
    "delete_link",
    "delete_netns",
    "delete_table",
    "forward",
    "links",
    "loopback_up",
    "masquerade",
    "nameservers",
    "netns_of",
    "set_link",
    "taken_networks",
    "uplinks",
    "veth",
]

_NETNS_DIRECTORY = Path("/run/netns")
_SECONDS = 10.0

# /24 networks to choose from; the first of these is seldom routed anywhere.
_POOLS = (IPv4Network("10.213.0.0/16"), IPv4Network("172.29.0.0/16"), IPv4Network("10.87.0.0/16"))


class NetworkError(SessionkeeperError):
    """`ip`, `nft` or `nsenter` is missing or refused."""

    code = "network"
    hint = "`sessionkeeper doctor` says what is missing; `--runtime process` needs none of it"


@dataclass(frozen=True)
class End:
    """One end of a pair of links: its name (15 characters at most), where it is, its address."""

    name: str
    netns: Path | None = None
    address: IPv4Interface | None = None


def netns_of(pid: int) -> Path:
    """The network namespace that a process is in, for as long as it lives."""
    return Path(f"/proc/{pid}/ns/net")


def create_netns(name: str) -> Path:
    """Make a named network namespace, its loopback down. NetworkError when the name is taken."""
    _run(["ip", "netns", "add", name])
    return _NETNS_DIRECTORY / name


def delete_netns(name: str) -> None:
    """Remove a named network namespace; what still runs in it keeps it alive. Idempotent."""
    if (_NETNS_DIRECTORY / name).exists():
        _run(["ip", "netns", "delete", name])


def loopback_up(netns: Path | None = None) -> None:
    """127.0.0.1 works from now on."""
    _ip(["link set lo up"], netns)


def veth(here: End, there: End) -> None:
    """A pair of virtual Ethernet links, each end in its namespace, up, with its address."""
    if there.netns is None:
        here, there = there, here
    # The far end is made where it belongs: under its name it might clash with one here.
    where = f"netns {there.netns}" if there.netns else ""
    _ip([f"link add {here.name} type veth peer name {there.name} {where}"], here.netns)
    for end in (here, there):
        address = [f"address add {end.address} dev {end.name}"] if end.address else []
        _ip([*address, *_without_ipv6(end.name), f"link set {end.name} up"], end.netns)


def bridge(name: str, address: IPv4Interface) -> None:
    """A bridge in this namespace, up, with an address."""
    # A hardware address of its own: else it has that of some port, and changes when a node goes,
    # while the other nodes go on writing to the one they know.
    mac = "02:" + hashlib.sha256(name.encode()).digest()[:5].hex(":")
    _ip(
        [
            f"link add {name} address {mac} type bridge",
            f"address add {address} dev {name}",
            *_without_ipv6(name),
            f"link set {name} up",
        ]
    )


def _without_ipv6(link: str) -> list[str]:
    """Have a link give itself no IPv6 address, which nobody would use: when addresses come and go,
    Chromium takes the machine for one that has moved to another network, and breaks off what its
    pages are loading (ERR_NETWORK_CHANGED).
    """
    if not Path("/proc/sys/net/ipv6").exists():
        return []
    return [f"link set {link} addrgenmode none"]


def set_link(
    name: str, *, up: bool | None = None, master: str | None = None, netns: Path | None = None
) -> None:
    """Put a link up or down, or plug it into a bridge."""
    commands = [f"link set {name} master {master}"] if master else []
    if up is not None:
        commands.append(f"link set {name} {'up' if up else 'down'}")
    _ip(commands, netns)


def delete_link(name: str, netns: Path | None = None) -> None:
    """Remove a link, and with it the other end of a pair. Idempotent."""
    try:
        if name in links(netns):
            _ip([f"link delete {name}"], netns)
    except NetworkError:
        # It goes by itself, at any moment, when the namespace of its other end has ended.
        if name in links(netns):
            raise


def links(netns: Path | None = None) -> list[str]:
    """Names of the links there are."""
    return [str(link["ifname"]) for link in _query(["link", "show"], netns)]


def default_route(via: IPv4Address, netns: Path | None = None) -> None:
    """Everything that is not local goes to `via`."""
    _ip([f"route replace default via {via}"], netns)


def uplinks(netns: Path | None = None) -> list[str]:
    """Links that a default route leaves by."""
    return sorted(
        {str(route["dev"]) for route in _query(["-4", "route", "show", "default"], netns)}
    )


def forward(*names: str, netns: Path | None = None) -> None:
    """Let packets that come in by these links go on to others (`all` for every link). A link is
    named rather than the machine's switch turned, so that nothing else becomes a router."""
    if netns is None:
        for name in names:
            try:
                Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1\n")
            except OSError as error:
                raise NetworkError(f"{name} cannot be made to forward: {error}") from error
        return
    script = "".join(f"echo 1 > /proc/sys/net/ipv4/conf/{name}/forwarding\n" for name in names)
    _run(["sh", "-e"], netns, script)


def masquerade(
    table: str, subnet: IPv4Network, *, inside: str | None = None, netns: Path | None = None
) -> None:
    """What comes from `subnet` and leaves by another link than `inside` bears this namespace's
    address. With `inside`, nobody outside can open a connection to the subnet. Replaces `table`."""
    away = f'oifname != "{inside}" ' if inside else ""
    guard = (
        f"""
        chain forward {{
            type filter hook forward priority filter; policy accept;
            iifname "{inside}" ip daddr 169.254.0.0/16 drop
            iifname "{inside}" accept
            oifname "{inside}" ct state established,related accept
            oifname "{inside}" drop
        }}"""
        if inside
        else ""
    )
    rules = f"""
    table ip {table} {{
        chain postrouting {{
            type nat hook postrouting priority srcnat; policy accept;
            ip saddr {subnet} ip daddr != {subnet} {away}masquerade
        }}{guard}
    }}"""
    # Declared before it is deleted, so that deleting works the first time too; one transaction.
    _run(["nft", "-f", "-"], netns, f"table ip {table}\ndelete table ip {table}\n{rules}\n")


def delete_table(table: str, netns: Path | None = None) -> None:
    """Remove a table that `masquerade` made. Idempotent."""
    _run(["nft", "-f", "-"], netns, f"table ip {table}\ndelete table ip {table}\n")


def taken_networks(netns: Path | None = None) -> set[IPv4Network]:
    """Networks that a link, a route or a name server of this namespace uses."""
    taken = {IPv4Network(address) for address in nameservers()}
    for route in _query(["-4", "route", "show", "table", "all"], netns):
        if route["dst"] != "default":
            taken.add(IPv4Network(str(route["dst"]), strict=False))
    for link in _query(["-4", "address"], netns):
        for one in link.get("addr_info", []):
            taken.add(IPv4Network(f"{one['local']}/{one['prefixlen']}", strict=False))
    return taken


def choose_subnet(seed: int, taken: Iterable[IPv4Network]) -> IPv4Network:
    """A private /24 that overlaps none of `taken`; the same seed looks in the same order."""
    occupied = list(taken)
    for pool in _POOLS:
        candidates = list(pool.subnets(new_prefix=24))
        start = seed % len(candidates)
        for candidate in candidates[start:] + candidates[:start]:
            if not any(candidate.overlaps(one) for one in occupied):
                return candidate
    raise NetworkError("no private network is free", hint="use `--runtime process`")


def nameservers() -> list[str]:
    """IPv4 name servers that can be reached from another network namespace: those of
    /etc/resolv.conf or, where that names a resolver on loopback, those systemd-resolved asks."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        found = _parse_nameservers(path)
        reachable = [one for one in found if not IPv4Address(one).is_loopback]
        if reachable:
            return reachable
    return []


def _parse_nameservers(path: str) -> list[str]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    named = [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"]
    return [one for one in named if ":" not in one and _is_address(one)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _ip(commands: Sequence[str], netns: Path | None = None) -> None:
    if len(commands) == 1:
        _run(["ip", *commands[0].split()], netns)
    elif commands:  # in one process: of twenty sessions that come at once each begins with these
        _run(["ip", "-batch", "-"], netns, "".join(f"{command}\n" for command in commands))


def _query(arguments: list[str], netns: Path | None) -> list[dict[str, Any]]:
    answer = _run(["ip", "-json", *arguments], netns)
    return [one for one in json.loads(answer or "[]") if one]


def _run(command: list[str], netns: Path | None = None, text: str = "") -> str:
    enter = ["nsenter", f"--net={netns}", "--"] if netns else []
    try:
        done = subprocess.run(
            [*enter, *command],
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise NetworkError(f"`{error.filename}` was not found") from None
    except subprocess.TimeoutExpired:
        raise NetworkError(f"`{' '.join(command)}` did not end within {_SECONDS:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise NetworkError(f"`{' '.join(command)}` failed: {said}")
    return done.stdout
