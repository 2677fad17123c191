"""What is agreed of a session, and what cannot be."""

from __future__ import annotations

import json

import pytest

from sessionkeeper.errors import UsageError
from sessionkeeper.registration import Memory, Registration, asked_for, decode, hashed


def test_a_session_that_says_nothing_gets_the_memory_that_all_get() -> None:
    usual = Memory(450 << 20, 2 << 30)
    got = usual.fill(Registration("a"))
    assert (got.guarantee, got.limit) == (450 << 20, 2 << 30)
    more = usual.fill(Registration("a", guarantee=4 << 30))
    assert (more.guarantee, more.limit) == (4 << 30, 4 << 30)
    little = usual.fill(Registration("a", limit=256 << 20))
    assert (little.guarantee, little.limit) == (256 << 20, 256 << 20)
    assert Memory().fill(got) == got


def test_it_is_read_as_it_was_written_also_by_a_version_that_knows_less() -> None:
    agreed = ("a", "ann", "image", ("spot",), 1, 2, 3.0, True, ("hash",), 0.5)
    whole = Registration(*agreed, environment=(("A", "b"),))
    assert decode(whole.encode()) == whole
    later = json.loads(whole.encode()) | {"colour": "blue"}
    assert decode(json.dumps(later).encode()) == whole


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"3", b"\xff"])
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_a_token_is_kept_as_its_hash_and_never_told() -> None:
    one = Registration("a").with_token("secret").with_token("other")
    assert one.tokens == (hashed("secret"), hashed("other"))
    assert "secret" not in one.encode().decode()
    assert one.with_token("third", alone=True).tokens == (hashed("third"),)
    assert "tokens" not in one.report()


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"name": ".hidden"}, "is no name"),
        ({"name": "../up"}, "is no name"),
        ({"name": "a+b"}, "is no name"),
        ({"name": 3}, "is no name"),
        ({"colour": "blue"}, "has no 'colour'"),
        ({"guarantee": "2G"}, "number of bytes"),
        ({"guarantee": -1}, "number of bytes"),
        ({"limit": True}, "number of bytes"),
        ({"guarantee": 2, "limit": 1}, "less than the guarantee"),
        ({"tiers": []}, "must be a list"),
        ({"tiers": ["free"]}, "must be a list"),
        ({"owner": 7}, "must be text"),
        ({"environment": ["A=b"]}, "must be an object"),
        ({"environment": {"A=": "b"}}, "no name of a variable"),
        ({"environment": {"A": 1}}, "A must be text"),
        ({"environment": {"A": "\0"}}, "A must be text"),
        ({"environment": {f"A{n}": "" for n in range(65)}}, "must be an object"),
        ({"owner": "x" * 300}, "must be text"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_words(wish: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asked_for(wish, "made-up", 0.0)


def test_what_is_not_asked_for_has_a_default() -> None:
    assert asked_for({}, "made-up", 5.0) == Registration("made-up", created=5.0)
    assert asked_for({"tiers": ["on-demand", "spot"]}, "a", 0.0).tiers == ("spot", "on-demand")


def test_session_with_secrets_goes_to_no_volunteer_unless_somebody_says_so() -> None:
    usual = asked_for({}, "a", 0.0)
    assert "volunteer" in usual.may_use(secrets=False)
    assert usual.may_use(secrets=True) == ("spot", "on-demand")
    assert asked_for({"secrets": True}, "a", 0.0).may_use(secrets=False) == ("spot", "on-demand")
    said = asked_for({"tiers": ["volunteer", "on-demand"], "secrets": True}, "a", 0.0)
    assert said.may_use(secrets=True) == ("volunteer", "on-demand")
    assert decode(said.encode()) == said
    with pytest.raises(UsageError, match="true or false"):
        asked_for({"secrets": 1}, "a", 0.0)


def test_tiers_that_an_older_version_wrote_down_were_somebodys_choice() -> None:
    older = {"name": "a", "tiers": ["volunteer"]}
    assert decode(json.dumps(older).encode()).may_use(secrets=True) == ("volunteer",)
    older = {"name": "a", "tiers": ["spot", "volunteer", "on-demand"]}
    assert decode(json.dumps(older).encode()).may_use(secrets=True) == ("spot", "on-demand")
