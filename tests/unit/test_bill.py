"""What a session costs: each second once, at the price of its node."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.bill import HOUR, Price, Row, Stay, Wanted, by, charge, missing, price_of, row_of
from sessionkeeper.chart import bars, nice
from sessionkeeper.cli.report import plot

DAY = "2026-11-21"
CHEAP = Stay("n1", "spot", Price(0.1, 0.4), {"a": "ann", "b": "bob"})


def test_a_node_is_paid_by_those_that_are_on_it() -> None:
    a, b = charge([CHEAP], HOUR, DAY)
    assert (a.session, a.owner, a.node, a.seconds) == ("a", "ann", "n1", HOUR)
    assert (a.paid, a.on_demand) == (pytest.approx(0.05), pytest.approx(0.2))
    assert b.session == "b"


@given(
    st.lists(
        st.builds(
            Stay,
            node=st.sampled_from(("n1", "n2", "n3")),
            tier=st.just("spot"),
            price=st.builds(Price, st.floats(0, 2), st.floats(0, 2)),
            sessions=st.dictionaries(st.sampled_from("abcd"), st.just("ann"), min_size=1),
        ),
        unique_by=lambda stay: stay.node,
    ),
    st.lists(st.floats(0.01, 1000), min_size=1, max_size=5),
)
def test_together_they_pay_what_the_nodes_cost_however_often_it_is_added_up(
    stays: list[Stay], pieces: list[float]
) -> None:
    rows = [row for seconds in pieces for row in charge(stays, seconds, DAY)]
    hours = sum(pieces) / HOUR
    assert sum(row.paid for row in rows) == pytest.approx(
        sum(stay.price.paid * hours for stay in stays)
    )
    for stay in stays:
        for session in stay.sessions:
            (mine,) = by(
                "day", [r for r in rows if (r.node, r.session) == (stay.node, session)]
            ).values()
            assert mine.seconds == pytest.approx(sum(pieces))


def test_what_nobody_said_is_taken_from_its_tier_and_marked() -> None:
    assert price_of({"cores": 4, "tier": "spot"}) == Price(0.04, 0.16, assumed=True)
    assert price_of({"cores": 4, "tier": "volunteer"}) == Price(0.0, 0.16, assumed=True)
    assert price_of({"cores": 4, "tier": "on-demand", "price": 0.3}) == Price(0.3, 0.3)
    assert price_of({"tier": "spot", "price": 0.3, "list_price": 1.0}) == Price(0.3, 1.0)


def test_only_the_fuller_account_of_a_row_counts() -> None:
    row = Row(DAY, "a", "n1", seconds=10.0, paid=1.0)
    more, other = replace(row, seconds=20.0), replace(row, day="2026-11-22", seconds=1.0)
    assert missing([row], [more, other]) == [more, other]
    assert missing([more], [row]) == []


def test_rows_are_written_read_and_looked_for() -> None:
    (row, _) = charge([CHEAP], 10.0, DAY)
    assert row_of(row.json()) == row
    assert row_of({**row.json(), "later": 1}) == row
    for damaged in ({}, {**row.json(), "seconds": "x"}):
        with pytest.raises(ValueError):
            row_of(damaged)
    assert Wanted(since=DAY, until=DAY, session="a", owner="ann").has(row)
    for other in (Wanted(since="2026-11-22"), Wanted(until="2026-11-20"), Wanted(owner="bob")):
        assert not other.has(row)


def test_a_plot_is_a_picture_of_the_numbers() -> None:
    rows = [*charge([CHEAP], HOUR, DAY), *charge([CHEAP], 2 * HOUR, "2026-11-22")]
    picture = ET.fromstring(plot(rows))
    bars_of = {"{http://www.w3.org/2000/svg}rect"}
    tall = [
        float(one.get("height", "0"))
        for one in picture.iter()
        if one.tag in bars_of and len(one) == 1
    ]
    assert len(tall) == 4
    assert tall[1] == pytest.approx(2 * tall[3] / 4, rel=0.1)  # on demand, half the day after
    assert [nice(value) for value in (0, 0.3, 1, 11, 60)] == [1, 0.5, 1, 20, 100]
    assert "&lt;b&gt;" in bars("<b>", "", ["x"], {"y": [1.0]})
