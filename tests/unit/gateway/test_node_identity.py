"""Who a node is, shown with a key that never leaves it."""

from __future__ import annotations

import pytest

from gateway.errors import Unauthorized, WrongGateway
from gateway.identity import Challenge, Identity, NodeKey, check_joining

KEY, OTHER = NodeKey.new(), NodeKey.new()


def test_node_that_has_the_key_is_believed() -> None:
    challenge = Challenge("gateway")
    signature = Identity("gateway", "home", KEY).answer(challenge.event())
    challenge.check("home", KEY.public, signature)


def test_answer_overheard_is_worth_nothing_at_the_next_connection() -> None:
    signature = Identity("gateway", "home", KEY).answer(Challenge("gateway").event())
    with pytest.raises(Unauthorized, match="does not have its key"):
        Challenge("gateway").check("home", KEY.public, signature)


def test_answer_is_good_for_one_node_alone() -> None:
    challenge = Challenge("gateway")
    signature = Identity("gateway", "home", KEY).answer(challenge.event())
    with pytest.raises(Unauthorized):
        challenge.check("other", KEY.public, signature)
    with pytest.raises(Unauthorized):
        challenge.check("home", OTHER.public, signature)


def test_gateway_that_passes_on_anothers_challenge_gets_no_answer() -> None:
    with pytest.raises(WrongGateway, match="not the gateway that home has joined"):
        Identity("gateway", "home", KEY).answer(Challenge("another").event())


def test_signature_for_joining_is_none_for_connecting() -> None:
    challenge = Challenge("gateway")
    signature = KEY.signs_joining("home", challenge.nonce)
    check_joining("home", challenge.nonce, KEY.public, signature)
    with pytest.raises(Unauthorized):
        challenge.check("home", KEY.public, signature)


@pytest.mark.parametrize("signature", [None, "", "x", "ä", 7, "A" * 86, "\ud800"])
def test_what_is_no_signature_is_refused(signature: object) -> None:
    with pytest.raises(Unauthorized):
        Challenge("gateway").check("home", KEY.public, signature)


@pytest.mark.parametrize("public", ["", "x", "ä", "A" * 42, "A" * 44])
def test_what_is_no_key_is_refused(public: str) -> None:
    challenge = Challenge("gateway")
    signature = Identity("gateway", "home", KEY).answer(challenge.event())
    with pytest.raises(Unauthorized):
        challenge.check("home", public, signature)


def test_private_key_is_in_no_log() -> None:
    assert KEY.text not in repr(Identity("gateway", "home", KEY))
    assert NodeKey(KEY.text).public == KEY.public != OTHER.public
