"""Quotas as they are written down."""

from __future__ import annotations

import pytest

from sessionkeeper.quotas import Quotas, parse_quotas


def test_what_is_written_is_what_holds_and_the_first_that_matches_counts() -> None:
    quotas = parse_quotas("owner=5, image=100,owner:alice=20,image:course/.*=300,image:course/a=1")
    assert (quotas.of_owner("alice"), quotas.of_owner("bob"), quotas.of_owner("")) == (20, 5, None)
    assert quotas.of_image("course/a") == 300
    assert quotas.of_image("other") == 100
    assert quotas.of_image(None) is None


def test_without_words_there_is_no_limit() -> None:
    assert parse_quotas("") == Quotas()
    assert Quotas().of_owner("anybody") is None


@pytest.mark.parametrize("text", ["5", "owner=-1", "owner=x", "repo=5", "image:[=5", "owner:=5"])
def test_what_is_no_quota_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no quota|regular expression"):
        parse_quotas(text)
