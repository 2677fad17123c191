"""What a tab sends is kept until it is in a journal, and sent once per connection."""

from __future__ import annotations

from test_asked import message, request

from sessionkeeper.ui.requests import Requests


def sent(requests: Requests) -> list[int]:
    return [number for number, _ in requests.unsent()]


def test_what_is_safe_is_counted_from_the_first_also_what_was_no_message() -> None:
    tab = Requests()
    for msg_id in "abc":
        tab.add(request(msg_id))
    tab.skip()
    assert tab.safe == 0
    tab.acknowledged(2)
    assert tab.safe == 0  # the first one is not
    tab.acknowledged(1)
    assert tab.safe == 2
    tab.acknowledged(3)
    assert tab.safe == 4
    assert not tab


def test_each_connection_carries_what_waits_and_what_comes_once() -> None:
    tab = Requests()
    tab.add(request("a"))
    tab.add(request("b"))
    assert sent(tab) == [1, 2]
    tab.add(request("c"))
    assert sent(tab) == [3]
    tab.acknowledged(1)
    tab.connected()
    assert sent(tab) == [2, 3]
    assert tab.size == len(request("b") + request("c"))


def test_a_send_that_breaks_is_tried_again_by_the_next_connection() -> None:
    tab = Requests()
    tab.add(request("a"))
    next(tab.unsent())  # and the connection breaks
    tab.connected()
    assert sent(tab) == [1]


def test_another_journal_is_asked_what_was_not_answered_but_the_page_need_not_keep_it() -> None:
    tab = Requests()
    for msg_id in "abc":
        tab.add(request(msg_id))
    tab.acknowledged(1)
    tab.acknowledged(2)
    tab.heard(message("shell", "execute_reply", "y", "a"))
    assert tab.safe == 2
    tab.branched()
    tab.connected()
    assert sent(tab) == [2, 3]
    assert tab.safe == 2
