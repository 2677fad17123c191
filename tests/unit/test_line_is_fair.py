"""Nobody waits for ever, whoever else comes; and what operators may limit is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from sessionkeeper.line import Rules, Waiting, place
from sessionkeeper.placement import Needs, NodeFacts
from sessionkeeper.quotas import Quotas

LONGEST_RUN = 4
"""Rounds that a session runs at most."""
ROUND = 10.0
TURN = 30.0


@dataclass
class Pool:
    """Nodes on which sessions come and go; a round is ``ROUND`` seconds."""

    sizes: list[int]
    rules: Rules
    now: float = 0.0
    running: dict[str, tuple[str, str, int, float]] = field(default_factory=dict)
    """Session: owner, node, memory, when it ends."""
    waiting: dict[str, Waiting] = field(default_factory=dict)

    def come(self, name: str, owner: str, memory: int) -> None:
        self.waiting[name] = Waiting(name, owner, Needs(memory=memory), self.now)

    def round(self, lasts: int) -> None:
        self.running = {name: one for name, one in self.running.items() if one[3] > self.now}
        there = list(self.running.values())
        nodes = [
            NodeFacts(
                str(n),
                ready=True,
                memory=size,
                load=sum(one[1] == str(n) for one in there),
                promised=sum(one[2] for one in there if one[1] == str(n)),
            )
            for n, size in enumerate(self.sizes)
        ]
        owners = Counter(one[0] for one in there)
        got = place(nodes, self.waiting.values(), owners, self.rules, self.now)
        for name, choice in got.items():
            if choice.node is not None:
                one = self.waiting.pop(name)
                ends = self.now + lasts * ROUND
                self.running[name] = one.owner, choice.node, one.needs.memory, ends
        self.now += ROUND


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    before=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), max_size=6),
    wanted=st.integers(1, 6),
    floods=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=4), min_size=1, max_size=5
    ),
    lasts=st.integers(1, LONGEST_RUN),
)
def test_whoever_fits_on_a_node_gets_one_however_many_keep_coming(
    sizes: list[int],
    before: list[tuple[str, int]],
    wanted: int,
    floods: list[list[tuple[bool, int]]],
    lasts: int,
) -> None:
    pool = Pool(sizes, Rules(turn=TURN))
    # The one we look at belongs to somebody who has a session that never ends, and many of those
    # that keep coming to people who have none.
    pool.running["for ever"] = "a", "0", 0, inf
    for number, (owner, memory) in enumerate(before):
        pool.come(f"before-{number}", owner, memory)
    pool.round(lasts)
    pool.come("mine", "a", min(wanted, max(sizes)))
    most = (TURN * (len(before) + 2)) / ROUND + (LONGEST_RUN + 1) * (len(before) + 60)
    rounds = 0
    while "mine" in pool.waiting:
        for number, (known, memory) in enumerate(floods[rounds % len(floods)]):
            owner = "b" if known else f"new-{rounds}-{number}"
            pool.come(f"{rounds}-{number}", owner, memory)
        pool.round(lasts)
        rounds += 1
        assert rounds < most


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(("x", "y", None))), max_size=12),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_no_more_than_the_quota_get_a_node(
    asked: list[tuple[str, str | None]], owner: int, image: int
) -> None:
    waiting = [Waiting(str(n), who, Needs(), n, what) for n, (who, what) in enumerate(asked)]
    rules = Rules(Quotas(owner=owner, image=image, owners=(("c", 1),)))
    got = place([NodeFacts("n", ready=True)], waiting, {"a": 1}, rules, images={"x": 1})
    have = [one for one in waiting if got[one.session].node]
    owners = Counter({"a": 1}) + Counter(one.owner for one in have)
    images = Counter({"x": 1}) + Counter(one.image for one in have if one.image)
    assert owners["a"] <= max(1, owner)
    assert owners["b"] <= owner
    assert owners["c"] <= 1
    assert images["x"] <= max(1, image)
    assert images["y"] <= image
    for one in waiting:  # and nobody waits who is below all of them
        if got[one.session].node is None:
            over = owners[one.owner] >= (1 if one.owner == "c" else owner)
            assert over or (one.image and images[one.image] >= image)
            assert "may" in str(got[one.session])


SPOT, PAID = NodeFacts("spot", ready=True, tier="spot"), NodeFacts("paid", ready=True)


def at(now: float, after: float | None, needs: Needs = Needs(), spot: bool = False) -> str:  # noqa: B008
    nodes = [replace(SPOT, ready=spot), PAID]
    rules = Rules(on_demand=after)
    choice = place(nodes, [Waiting("s", "", needs, 100.0)], {}, rules, now)["s"]
    return choice.node or choice.reasons["paid"]


def test_on_demand_is_taken_after_a_wait_or_never_as_the_policy_says() -> None:
    assert at(100.0, 0.0) == "paid"
    assert at(100.0, 60.0) == "is on-demand, which is taken after 60 s of waiting"
    assert at(160.0, 60.0) == "paid"
    assert at(9999.0, None) == "is on-demand, which is taken never"
    assert at(100.0, None, spot=True) == "spot"
    assert at(160.0, 60.0, spot=True) == "spot"


def test_who_may_use_nothing_but_on_demand_does_not_wait_for_it() -> None:
    assert at(100.0, 60.0, Needs(tiers=("on-demand",))) == "paid"
    assert at(100.0, None, Needs(tiers=("on-demand",))) == "paid"


def test_it_is_known_when_to_look_again() -> None:
    assert Rules(on_demand=60.0).left(45.0) == 15.0
    assert Rules(on_demand=60.0).left(60.0) is None
    assert Rules(on_demand=None).left(0.0) is None
