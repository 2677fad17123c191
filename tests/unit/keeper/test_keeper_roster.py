"""Which machines may come in: by tokens that are used up, and keys that are theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import NodeRevoked, Unauthorized
from gateway.identity import NodeKey
from sessionkeeper.errors import UnknownNode, UsageError
from sessionkeeper.keeper.roster import JoinRefused, Member, NameRefused, Roster
from sessionkeeper.registration import hashed

KEY = NodeKey.new()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def roster(tmp_path: Path, clock: Clock) -> Roster:
    return Roster(tmp_path / "nodes.json", clock)


def join(roster: Roster, token: str, name: str = "home", key: NodeKey = KEY, **more: Any) -> Member:
    signature = more.pop("signature", key.signs_joining(name, token))
    wish = {"name": name, "token": token, "key": key.public, "signature": signature, **more}
    return roster.join(wish, is_there=lambda one: one == "there")


def test_token_lets_one_machine_in_and_is_used_up(roster: Roster) -> None:
    token, _ = roster.new_token()
    assert join(roster, token).tier == "volunteer"
    assert roster.tickets() == []
    with pytest.raises(JoinRefused, match="none that is good"):
        join(roster, token, "second", NodeKey.new())


def test_machine_that_heard_no_answer_may_ask_again(roster: Roster) -> None:
    token, _ = roster.new_token()
    first = join(roster, token)
    assert join(roster, token) == first
    with pytest.raises(JoinRefused):
        join(roster, token, "second")  # not under another name
    assert [one.name for one in roster.members()] == ["home"]


def test_token_for_two_lets_two_in(roster: Roster) -> None:
    token, _ = roster.new_token("spot", uses=2)
    assert [join(roster, token, n, NodeKey.new()).tier for n in ("a", "b")] == ["spot", "spot"]
    with pytest.raises(JoinRefused):
        join(roster, token, "c", NodeKey.new())


def test_token_expires(roster: Roster, clock: Clock) -> None:
    token, ticket = roster.new_token(seconds=60.0)
    clock.now = ticket.expires
    assert roster.tickets() == []
    with pytest.raises(JoinRefused):
        join(roster, token)


def test_token_that_was_withdrawn_lets_nobody_in(roster: Roster) -> None:
    token, ticket = roster.new_token()
    roster.withdraw(ticket.id)
    with pytest.raises(JoinRefused):
        join(roster, token)
    with pytest.raises(UsageError):
        roster.withdraw(ticket.id)


def test_only_the_hash_of_a_token_is_kept(roster: Roster, tmp_path: Path) -> None:
    token, ticket = roster.new_token()
    kept = (tmp_path / "nodes.json").read_text()
    assert token not in kept
    assert hashed(token) in kept
    assert (tmp_path / "nodes.json").stat().st_mode & 0o777 == 0o600
    assert ticket.hash not in repr(ticket)
    assert ticket.hash not in str(ticket.report())


def test_machine_cannot_say_that_it_is_trusted_more_than_its_token(roster: Roster) -> None:
    token, _ = roster.new_token("volunteer")
    with pytest.raises(UsageError, match="for machines of the tier volunteer"):
        join(roster, token, tier="on-demand")
    token, _ = roster.new_token("on-demand")
    assert join(roster, token, tier="volunteer").tier == "volunteer"


def test_nobody_gets_in_with_a_key_that_is_not_theirs(roster: Roster) -> None:
    token, _ = roster.new_token()
    with pytest.raises(Unauthorized, match="does not have the key"):
        join(roster, token, signature=NodeKey.new().signs_joining("home", token))
    assert len(roster.tickets()) == 1, "the token is still good"


@pytest.mark.parametrize("name", ["there", "taken", "node-1", "Home", "a b", "-a", "x" * 41])
def test_name_of_another_machine_cannot_be_had(roster: Roster, name: str) -> None:
    token, _ = roster.new_token(uses=3)
    join(roster, token, "taken")
    with pytest.raises(NameRefused):
        join(roster, token, name, NodeKey.new())


@pytest.mark.parametrize("wish", [{}, {"name": 3}, {"token": None}, {"key": "x" * 999}])
def test_wish_without_sense_is_refused_with_words(roster: Roster, wish: dict[str, Any]) -> None:
    whole = {"name": "a", "token": "t", "key": "k", "signature": "s", **wish}
    whole = {} if not wish else whole
    with pytest.raises(UsageError, match="gives its name"):
        roster.join(whole, is_there=lambda name: False)


def test_all_of_it_is_there_after_a_restart(roster: Roster, tmp_path: Path, clock: Clock) -> None:
    token, _ = roster.new_token(uses=3)
    join(roster, token)
    join(roster, token, "bad", NodeKey.new())
    roster.revoke("bad")
    roster.cordon("home", True)
    again = Roster(tmp_path / "nodes.json", clock)
    assert again.gateway == roster.gateway
    assert again.members() == roster.members()
    assert again.tickets() == roster.tickets()
    assert again.is_cordoned("home")


def test_revoked_machine_is_refused_with_words(roster: Roster) -> None:
    token, _ = roster.new_token(uses=2)
    join(roster, token)
    assert roster.admitted("home").key == KEY.public
    roster.revoke("home")
    with pytest.raises(NodeRevoked, match="operator has revoked home"):
        roster.admitted("home")
    with pytest.raises(JoinRefused):
        join(roster, token)  # the same token and key do not bring it back
    with pytest.raises(UnknownNode):
        roster.revoke("nobody")
    with pytest.raises(Unauthorized, match="has joined"):
        roster.admitted("nobody")


def test_revoked_machine_may_join_anew_with_a_new_token_and_key(roster: Roster) -> None:
    token, _ = roster.new_token()
    join(roster, token)
    roster.revoke("home")
    token, _ = roster.new_token()
    new = NodeKey.new()
    join(roster, token, key=new)
    assert roster.admitted("home").key == new.public


def test_name_of_a_machine_that_left_is_free(roster: Roster) -> None:
    token, _ = roster.new_token(uses=2)
    join(roster, token)
    roster.cordon("home", True)
    roster.forget("home")
    assert not roster.is_cordoned("home")
    assert join(roster, token, key=NodeKey.new()).name == "home"


@pytest.mark.parametrize(
    "how", [{"tier": "free"}, {"uses": 0}, {"uses": 1001}, {"seconds": 0}, {"seconds": 1e9}]
)
def test_token_that_makes_no_sense_is_refused(roster: Roster, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        roster.new_token(**how)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"gateway": "g"})])
def test_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "nodes.json").write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        Roster(tmp_path / "nodes.json")
