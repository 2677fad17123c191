"""What a machine keeps of having joined, and what its owner reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.identity import NodeKey
from sessionkeeper.agent import unit
from sessionkeeper.agent.membership import Membership, checked_url, is_address
from sessionkeeper.cli.join import Home, host_name, offered
from sessionkeeper.cli.parser import parse
from sessionkeeper.errors import AlreadyRunning, UsageError
from sessionkeeper.notices.policy import parse_policy
from sessionkeeper.settings import AgentSettings

MEMBER = Membership("https://g", "gateway", "home", "volunteer", NodeKey.new().text)


def test_it_is_for_its_owner_alone_and_shows_no_key(tmp_path: Path) -> None:
    MEMBER.save(tmp_path / "member.json")
    assert stat.S_IMODE((tmp_path / "member.json").stat().st_mode) == 0o600
    assert Membership.load(tmp_path / "member.json") == MEMBER
    assert MEMBER.key not in repr(MEMBER)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"url": 1}'])
def test_what_is_no_membership_says_how_to_have_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "member.json").write_text(content)
    with pytest.raises(UsageError, match="which gateway") as caught:
        Membership.load(tmp_path / "member.json")
    assert "node join" in caught.value.hint


@pytest.mark.parametrize("url", ["https://g", "http://127.0.0.1:8889", "http://localhost:1"])
def test_gateway_with_tls_or_on_this_machine_is_taken(url: str) -> None:
    checked_url(url, plain=False)


@pytest.mark.parametrize("url", ["http://g", "g", "ftp://g", "https://"])
def test_what_is_no_gateway_or_without_tls_is_not(url: str) -> None:
    with pytest.raises(UsageError):
        checked_url(url, plain=False)
    if url == "http://g":
        checked_url(url, plain=True)


def test_only_a_gateway_named_by_its_address_is_known_to_be_gone_when_it_refuses() -> None:
    assert is_address("http://10.213.0.1:8889")
    assert is_address("http://[::1]:8889")
    assert not is_address("https://gateway.example")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Ann-PC.fritz.box", "ann-pc"),
        ("node-1", "host-node-1"),
        ("Jürgen's Laptop", "j-rgen-s-laptop"),
        ("---", "host"),
        ("a" * 60, "a" * 32),
    ],
)
def test_it_is_called_as_its_host_where_that_can_be(host: str, name: str) -> None:
    assert host_name(host) == name


def test_key_is_made_once_until_it_has_joined(tmp_path: Path) -> None:
    home = Home(tmp_path / "node")
    home.prepare()
    assert home.own_key() == home.own_key()
    assert stat.S_IMODE(home.key.stat().st_mode) == 0o600


def test_one_node_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.holder() is None
    with home.held():
        assert home.holder() == os.getpid()
        with pytest.raises(AlreadyRunning, match=str(os.getpid())), Home(tmp_path).held():
            pass
    assert home.holder() is None


def test_owner_reads_what_is_offered_to_whom_and_when() -> None:
    settings = AgentSettings(
        gateway_url="https://g",
        node="home",
        data=Path("/x"),
        offered_cores=2,
        offered_memory=4 << 30,
        only_when=parse_policy("night,away"),
    )
    said = "\n".join(offered(MEMBER, settings, 16, 64 << 30))
    assert "home, of the tier volunteer, at https://g" in said
    assert "2 cores, 4.0 GB" in said
    assert "away, 22:00-07:00" in said
    assert "WITHOUT a wall" in said


def test_unit_waits_for_a_drain_and_is_not_started_again_when_it_is_not_let_in() -> None:
    words = ["/usr/bin/python3", "-m", "sessionkeeper", "--dir", "/a b/100%"]
    environ = {"HTTPS_PROXY": "http://u:p%20@proxy:3128", "PATH": "/bin"}
    text = unit.text(words, environ, root=False, grace=30, refused=17)
    assert 'Environment="HTTPS_PROXY=http://u:p%%20@proxy:3128"' in text
    assert "PATH" not in text
    assert 'ExecStart=/usr/bin/python3 -m sessionkeeper --dir "/a b/100%%"' in text
    assert "TimeoutStopSec=60" in text
    assert "RestartPreventExitStatus=17" in text
    assert "KillMode=process" in text, "kernels outlive an agent that is started again"
    assert "WantedBy=default.target" in text
    assert "WantedBy=multi-user.target" in unit.text(words, {}, root=True, grace=30, refused=17)
    home = Path("/home/ann")
    assert unit.path(root=False, home=home) == home / ".config/systemd/user" / unit.NAME
    assert unit.path(root=True, home=home) == Path("/etc/systemd/system") / unit.NAME


def test_what_can_be_typed() -> None:
    found = parse(["node", "join", "https://g", "--token", "t", "--when", "night", "--cores", "2"])
    assert (found.url, found.token, found.when, found.cores) == ("https://g", "t", "night", "2")
    assert found.systemd_unit is None
    assert parse(["node", "join", "--systemd-unit"]).systemd_unit == ""
    assert parse(["node", "token", "create", "--uses", "3"]).uses == 3
