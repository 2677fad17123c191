"""Names of sessions: nobody gets another's."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.repository import checked
from sessionkeeper.spawner.names import directory_name, session_names

PARTS = st.tuples(*[st.text(max_size=60)] * 3)


@given(PARTS, PARTS)
def test_no_two_servers_or_images_share_a_session(one, other):
    names = {tuple(islice(session_names("hub", *parts), 3)) for parts in (one, other)}
    flat = [name for three in names for name in three]
    assert len(flat) == len(set(flat))
    assert len(names) == len({one, other})


@given(PARTS)
def test_any_user_gets_a_name_that_the_gateway_takes(parts):
    name = next(session_names("hub", *parts))
    checked(name)
    assert name == next(session_names("hub", *parts))


@given(st.text(max_size=300), st.text(max_size=300))
def test_directory_of_any_server_is_one_plain_name(user, server):
    name = directory_name(user, server)
    assert name == name.lower()
    assert "/" not in name
    assert 0 < len(name) < 100
    assert not name.startswith(".")


def test_names_stay_readable():
    assert next(session_names("hub", "Ann.Lee@example.org", "lab", "")).startswith(
        "hub-ann-lee-example-org-lab-"
    )
