"""Several sources at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from metadata.service import CUT, HANG, AwsService, AzureService

from sessionkeeper.agent.ledger import clock
from sessionkeeper.errors import UsageError
from sessionkeeper.notices.aws import Aws
from sessionkeeper.notices.azure import Azure
from sessionkeeper.notices.choice import choose
from sessionkeeper.notices.detect import detected
from sessionkeeper.notices.names import parse_names
from sessionkeeper.notices.notice import Notice, NoticeSource, SourceFailed, what_counts
from sessionkeeper.notices.policy import Policy
from sessionkeeper.notices.signals import Signal
from sessionkeeper.notices.together import Together

PATIENCE = 20.0


async def following(said: AsyncIterator[frozenset[Notice]]) -> frozenset[Notice]:
    return await asyncio.wait_for(anext(said), PATIENCE)


NOW = 1000.0
SOON, LATER = Notice("aws", "soon", NOW + 30), Notice("logind", "later", NOW + 300)
ADVICE = Notice("aws", "maybe")


@pytest.mark.parametrize(
    ("notices", "counts"),
    [
        ([], None),
        ([ADVICE], ADVICE),
        ([LATER, ADVICE, SOON], SOON),
        ([ADVICE, LATER], LATER),
        ([SOON, Notice("azure", "soon", NOW + 30)], SOON),
    ],
)
def test_the_earliest_deadline_counts_and_advice_only_without_one(
    notices: list[Notice], counts: Notice | None
) -> None:
    assert what_counts(notices) == counts
    assert what_counts(reversed(notices)) == counts


async def test_two_clouds_say_it_and_it_holds_until_both_take_it_back() -> None:
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsService().serve())
        azure = await stack.enter_async_context(AzureService().serve())
        both = Together([Aws(aws.url, every=0.02), Azure(azure.url, every=0.02)])
        said = both.watch()
        await aws.give(120)
        while len(found := await following(said)) != 1:
            pass
        assert what_counts(found).reason == "AWS takes the spot instance back"  # type: ignore
        await azure.give(30)
        found = await following(said)
        assert what_counts(found).reason == "Azure takes the spot VM back"  # type: ignore
        await both.drained()
        assert azure.started
        await azure.withdraw()
        while len(found) != 1:
            found = await following(said)
        await aws.withdraw()
        assert await following(said) == frozenset()
        await said.aclose()


async def test_a_source_that_fails_is_said_once_and_asked_again_and_its_notice_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsService().serve())
        azure = await stack.enter_async_context(AzureService().serve())
        sources = [Aws(aws.url, every=0.02), Azure(azure.url, every=0.02)]
        said = Together(sources, first_pause=0.01).watch()
        await azure.give(30)
        while not await following(said):
            pass
        caplog.clear()
        azure.broken = CUT
        count = len(azure.requests)
        waiting = asyncio.ensure_future(anext(said))
        await azure.until(lambda: len(azure.requests) > count + 5)
        assert not waiting.done()  # what it said last holds
        warnings = [one.message for one in caplog.records if one.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "no notices of azure for now" in warnings[0]
        await aws.give(120)
        assert len(await asyncio.wait_for(waiting, PATIENCE)) == 2
        azure.broken = None
        await azure.withdraw()
        assert len(await following(said)) == 1
        await said.aclose()


async def test_that_there_is_none_is_said_when_all_were_asked_and_a_notice_at_once() -> None:
    async with AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsService().serve())
        azure = await stack.enter_async_context(AzureService().serve())
        azure.broken = HANG
        both = Together([Aws(aws.url, every=0.02), Azure(azure.url)], first_pause=0.01)
        said = both.watch()
        waiting = asyncio.ensure_future(anext(said))
        await azure.until(lambda: azure.hanging)
        await aws.until(lambda: len(aws.requests) > 9)
        assert not waiting.done()  # what Azure has to say is not known
        await aws.give(120)
        assert len(await asyncio.wait_for(waiting, PATIENCE)) == 1
        await said.aclose()


class Bug:
    """A source with a bug."""

    name = "bug"

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        if self.asked.is_set():
            yield frozenset({SOON})
            await asyncio.Event().wait()
        self.asked.set()
        raise ZeroDivisionError

    async def drained(self) -> None:
        raise SourceFailed("not told")


async def test_a_source_with_a_bug_takes_no_other_with_it() -> None:
    both = Together([Bug()], first_pause=0.01)
    said = both.watch()
    assert await following(said) == frozenset()
    assert await following(said) == frozenset({SOON})
    await both.drained()  # raises nothing
    await said.aclose()


async def test_no_source_is_no_notice() -> None:
    said = Together([]).watch()
    assert await following(said) == frozenset()
    await said.aclose()


async def test_a_signal_gives_notice_and_the_end_comes_when_nothing_is_left() -> None:
    stopped = asyncio.Event()
    source = Signal(30.0, stopped.set, signal.SIGUSR2)
    said = source.watch()
    assert await following(said) == frozenset()
    await source.drained()
    assert not stopped.is_set()
    waiting = asyncio.ensure_future(anext(said))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR2)
    [notice] = await asyncio.wait_for(waiting, PATIENCE)
    assert notice.reason == "it was sent SIGUSR2"
    assert 25 < (notice.left() or 0) <= 30
    assert not stopped.is_set()
    await source.drained()
    assert stopped.is_set()
    await said.aclose()
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


@pytest.mark.parametrize("second", [True, False])
async def test_a_second_signal_or_the_deadline_ends_it_at_once(second: bool) -> None:
    stopped = asyncio.Event()
    said = Signal(30.0 if second else 0.05, stopped.set, signal.SIGUSR2).watch()
    await following(said)
    waiting = asyncio.ensure_future(anext(said))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR2)
    await waiting
    if second:
        os.kill(os.getpid(), signal.SIGUSR2)
    began = clock()
    await asyncio.wait_for(stopped.wait(), PATIENCE)
    assert clock() - began < 10
    asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)


# -- which ones --------------------------------------------------------------------------------


def machine(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({}, []),
        ({"sys__class__dmi__id__sys_vendor": "Amazon EC2\n"}, ["aws"]),
        ({"sys__hypervisor__uuid": "ec2e1916-9099-7caf\n"}, ["aws"]),
        ({"sys__class__dmi__id__bios_version": "4.11.amazon\n"}, ["aws"]),
        (
            {
                "sys__class__dmi__id__sys_vendor": "Google\n",
                "sys__class__dmi__id__product_name": "Google Compute Engine\n",
            },
            ["google"],
        ),
        (
            {"sys__class__dmi__id__chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n"},
            ["azure"],
        ),
        ({"sys__class__dmi__id__sys_vendor": "Dell Inc.\n"}, []),
    ],
)
def test_clouds_are_known_by_what_the_firmware_says(
    tmp_path: Path, files: dict[str, str], names: list[str]
) -> None:
    assert detected(machine(tmp_path, **files), {}) == names


def test_a_pod_and_a_home_computer_are_known_too(tmp_path: Path) -> None:
    account = "var__run__secrets__kubernetes.io__serviceaccount__token"
    root = machine(tmp_path, **{account: "x"})
    assert detected(root, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == ["kubernetes", "signal"]
    assert detected(root, {}) == []
    (tmp_path / "run/systemd/seats").mkdir(parents=True)
    machine(tmp_path, run__dbus__system_bus_socket="")
    assert detected(tmp_path, {}) == ["logind"]


@pytest.mark.parametrize("text", ["", "aws,", "auto,aws", "none,aws", "amazon"])
def test_names_that_make_no_sense_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not auto, none or some of aws, google"):
        parse_names(text)


def names_of(text: str, policy: Policy | None = None) -> list[str]:
    made = choose(
        parse_names(text), policy or Policy(), metadata=None, grace=30.0, stop=lambda: None
    )
    return [one.name for one in made.sources]


def test_what_is_chosen_is_what_was_named_and_the_owners_wish_beside_it() -> None:
    assert names_of("none") == []
    assert names_of("google, aws,google") == ["google", "aws"]
    assert names_of("azure,kubernetes,logind,signal", Policy(away=True)) == [
        *("azure", "kubernetes pod", "kubernetes node", "logind", "signal", "owner")
    ]
    assert names_of("none", Policy(plugged_in=True)) == ["owner"]


def test_kubernetes_without_its_client_is_said_and_auto_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sessionkeeper.notices.kubernetes", None)
    with pytest.raises(UsageError) as refused:
        names_of("kubernetes")
    assert "sessionkeeper[kubernetes]" in refused.value.hint
    found = ["kubernetes", "signal"]
    monkeypatch.setattr("sessionkeeper.notices.choice.detected", lambda: found)
    assert names_of("auto") == ["signal"]


def test_every_source_is_one() -> None:
    sources: list[NoticeSource] = list(
        choose(("aws",), Policy(), metadata="http://x", grace=1, stop=int).sources
    )
    assert [one.name for one in sources] == ["aws"]
