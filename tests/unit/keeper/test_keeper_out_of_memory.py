"""A kernel whose memory ran out comes back, from earlier and earlier checkpoints if it must."""

from __future__ import annotations

from keeper_rig import Site

from sessionkeeper.keeper.out_of_memory import words
from sessionkeeper.keeper.session_kernels import MOST_IN_A_ROW


async def runs_out(site: Site, cell: int) -> bool:
    """The kernel runs out of memory in that input; whether it is brought back, which is awaited."""
    kernel, epoch = site.channels.ids[0], site.agents["a"].epoch
    if not site.keeper.kernels.bring_back(kernel, ran_out=cell):
        return False
    await site.until(lambda: site.agents["a"].epoch not in {epoch, None})
    await site.runs_on("a")
    return True


async def test_it_goes_on_from_the_newest_checkpoint_and_at_once_again_from_the_one_before(
    site: Site,
) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    newest = [(await site.checkpointed()).number for _ in range(MOST_IN_A_ROW + 1)][-1]
    for back in range(MOST_IN_A_ROW + 1):
        assert await runs_out(site, cell=99)
        assert agent.asked("session.open")[-1]["manifest"] == newest - back
    assert "a kernel ran out of memory as soon as it was restored" in site.said
    # That is enough: it begins anew, and not again and again.
    assert not await runs_out(site, cell=99)
    kernel = site.channels.ids[0]
    assert site.keeper.kernels.may_begin_anew(kernel)
    assert not site.keeper.kernels.may_begin_anew(kernel)


async def test_one_that_was_asked_something_since_begins_with_the_newest_once_more(
    site: Site,
) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    await site.checkpointed()
    assert await runs_out(site, cell=99)
    newest = (await site.checkpointed()).number
    assert await runs_out(site, cell=99)
    assert agent.asked("session.open")[-1]["manifest"] == newest
    assert "was skipped" not in site.said


async def test_it_is_interrupted_before_it_goes_on_where_the_checkpoint_has_it_in_that_cell(
    site: Site,
) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    await site.checkpointed()
    begun = site.channels.position(site.channels.ids[0]).applied
    assert await runs_out(site, cell=begun)
    assert agent.asked("session.open")[-1]["interrupt"] == site.channels.ids[:1]
    await site.checkpointed()
    after = site.channels.position(site.channels.ids[0]).applied + 1
    assert await runs_out(site, cell=after)  # begun after the checkpoint: it is not in there
    assert agent.asked("session.open")[-1]["interrupt"] == []


async def test_a_kernel_that_dies_of_something_else_at_once_again_has_ended(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    kernel = site.channels.ids[0]
    assert await runs_out(site, cell=99)
    assert not site.keeper.kernels.bring_back(kernel)


def test_what_is_said_names_the_cell_and_the_limit() -> None:
    assert words("x = 1", 300 << 20) == "`x = 1` ran out of memory: the session may use 300 MiB."
    assert words(None, None) == "The kernel ran out of memory."
