"""What AWS, Google and Azure say, and what is made of it: documented formats, and anything but."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from metadata.service import FAULTS, HANG, AwsService, AzureService, GoogleService, Reply, Service

from sessionkeeper.notices import metadata
from sessionkeeper.notices.aws import Aws
from sessionkeeper.notices.azure import Azure
from sessionkeeper.notices.google import Google
from sessionkeeper.notices.notice import Notice, NoticeSource, SourceFailed

PATIENCE = 20.0
Made = tuple[Any, NoticeSource]


async def said(source: NoticeSource, count: int = 1) -> list[frozenset[Notice]]:
    """The first things that it says."""
    found: list[frozenset[Notice]] = []
    async with asyncio.timeout(PATIENCE), aclosing(source.watch()) as watching:  # type: ignore
        async for one in watching:
            found.append(one)
            if len(found) == count:
                break
    return found


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture
async def aws(stack: AsyncExitStack) -> Made:
    service = await stack.enter_async_context(AwsService().serve())
    return service, Aws(service.url, every=0.02)


@pytest_asyncio.fixture
async def google(stack: AsyncExitStack) -> Made:
    service = await stack.enter_async_context(GoogleService().serve())
    return service, Google(service.url)


@pytest_asyncio.fixture
async def azure(stack: AsyncExitStack) -> Made:
    service = await stack.enter_async_context(AzureService().serve())
    return service, Azure(service.url, every=0.02)


@pytest_asyncio.fixture(params=["aws", "google", "azure"])
async def cloud(request: pytest.FixtureRequest, aws: Made, google: Made, azure: Made) -> Made:
    return {"aws": aws, "google": google, "azure": azure}[request.param]


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_no_answer_is_a_failure_and_never_a_notice(cloud: Made, fault: str) -> None:
    service, source = cloud
    service.broken = FAULTS[fault]
    with pytest.raises(SourceFailed) as failed:
        await said(source)
    assert failed.value.retry_after == (1 if fault == "too many requests" else None)
    service.broken = None
    assert await said(source) == [frozenset()]


async def test_a_service_that_does_not_answer_is_given_up(
    cloud: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, source = cloud
    ask = metadata.Metadata.ask

    async def in_haste(self: Any, *what: Any, **how: Any) -> Any:
        return await ask(self, *what, **{**how, "wait": 0.2})

    monkeypatch.setattr(metadata.Metadata, "ask", in_haste)
    service.broken = HANG
    with pytest.raises(SourceFailed, match="did not answer"):
        await said(source)
    assert service.requests


async def test_nobody_listens_is_a_failure() -> None:
    for source in (
        Aws("http://127.0.0.1:1"),
        Google("http://127.0.0.1:1"),
        Azure("http://[::1]:1"),
    ):
        with pytest.raises(SourceFailed, match="did not answer"):
            await said(source)


async def test_a_proxy_of_the_environment_is_not_asked(
    aws: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await said(Aws(aws[0].url)) == [frozenset()]


# -- AWS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("terminate", "AWS takes the spot instance back"),
        ("stop", "AWS stops the spot instance"),
        ("hibernate", "AWS hibernates the spot instance"),
        ("melt", "AWS interrupts the spot instance: melt"),
    ],
)
async def test_aws_interruption_says_what_happens_and_when(
    aws: Made, action: str, words: str
) -> None:
    service, source = aws
    await service.give(120, action)
    [[notice]] = await said(source)
    assert notice.reason == words
    assert 117 < notice.left() <= 120


async def test_a_wrong_clock_of_this_machine_does_not_move_the_deadline(aws: Made) -> None:
    service, source = aws
    service.ahead = timedelta(hours=-3)
    await service.give(120)
    [[notice]] = await said(source)
    assert 117 < notice.left() <= 120


async def test_aws_rebalance_recommendation_is_advice_without_a_deadline(aws: Made) -> None:
    service, source = aws
    await service.advise()
    [[notice]] = await said(source)
    assert notice.deadline is None
    assert notice.left() is None


async def test_aws_token_is_fetched_once_and_shown_with_every_request(aws: Made) -> None:
    service, source = aws
    watching = source.watch()
    await anext(watching)
    waiting = asyncio.ensure_future(anext(watching))
    await service.until(lambda: len(service.requests) > 9)
    await service.give(60)
    await waiting
    await watching.aclose()
    puts = [one for one in service.requests if one.method == "PUT"]
    assert [one.headers["x-aws-ec2-metadata-token-ttl-seconds"] for one in puts] == ["21600"]
    gets = [one for one in service.requests if one.method == "GET"]
    assert {one.headers["x-aws-ec2-metadata-token"] for one in gets} == service.tokens


async def test_aws_token_that_is_refused_is_renewed_without_a_failure(aws: Made) -> None:
    service, source = aws
    watching = source.watch()
    assert await anext(watching) == frozenset()
    service.tokens.clear()
    await service.give(60)
    assert len(await asyncio.wait_for(anext(watching), PATIENCE)) == 1
    await watching.aclose()


async def test_aws_token_is_renewed_before_its_end(aws: Made) -> None:
    service, source = aws
    service.life = 0
    await said(source)
    assert len(service.tokens) == 2  # one for each of the two items


async def test_aws_that_refuses_every_token_fails(aws: Made) -> None:
    service, source = aws
    service.tokens = type("Never", (set,), {"__contains__": lambda *_: False})()
    with pytest.raises(SourceFailed, match="answered 401"):
        await said(source)


@pytest.mark.parametrize(
    "item",
    ["", "[]", "{}", '{"action": "stop"}', '{"action": "stop", "time": "soon"}', '{"time": null}'],
)
async def test_aws_interruption_that_makes_no_sense_is_a_failure(aws: Made, item: str) -> None:
    service, source = aws
    service.items["spot/instance-action"] = item
    with pytest.raises(SourceFailed):
        await said(source)


# -- Google ----------------------------------------------------------------------------------------


async def test_google_waits_for_a_change_and_says_it_at_once(google: Made) -> None:
    service, source = google
    watching = source.watch()
    assert await anext(watching) == frozenset()
    await service.until(lambda: service.hanging == 2)
    count = len(service.requests)
    assert count == 4  # what there is, then what is new, of two keys
    await service.give(30)
    [notice] = await asyncio.wait_for(anext(watching), PATIENCE)
    assert notice.reason == "Google takes the spot VM back"
    assert 25 < notice.left() <= 30
    await watching.aclose()
    hung = [one.query for one in service.requests if one.query]
    assert hung[0] == {"wait_for_change": "true", "last_etag": f"{1:016x}", "timeout_sec": "60"}
    assert all(one.headers["metadata-flavor"] == "Google" for one in service.requests)


async def test_google_goes_on_when_nothing_changed_for_as_long_as_it_waits(google: Made) -> None:
    service, _ = google
    source = Google(service.url, hang=1, least=0.01)
    watching = source.watch()
    assert await anext(watching) == frozenset()
    waiting = asyncio.ensure_future(anext(watching))
    await service.until(lambda: len(service.requests) >= 6)
    await service.give(30)
    assert len(await asyncio.wait_for(waiting, PATIENCE)) == 1
    await watching.aclose()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("MIGRATE_ON_HOST_MAINTENANCE", None), ("TERMINATE_ON_HOST_MAINTENANCE", 60)],
)
async def test_google_maintenance(google: Made, value: str, seconds: float | None) -> None:
    service, source = google
    await service.set("maintenance-event", value)
    found = await said(source)
    [notice] = found[-1]
    assert notice.left() == seconds if seconds is None else 55 < (notice.left() or 0) <= 60


async def test_google_preemption_and_maintenance_hold_side_by_side(google: Made) -> None:
    service, source = google
    watching = source.watch()
    await anext(watching)
    await service.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
    assert len(await asyncio.wait_for(anext(watching), PATIENCE)) == 1
    await service.give(30)
    assert len(await asyncio.wait_for(anext(watching), PATIENCE)) == 2
    await service.set("maintenance-event", "NONE")
    [notice] = await asyncio.wait_for(anext(watching), PATIENCE)
    assert notice.reason == "Google takes the spot VM back"
    await watching.aclose()


async def test_an_answer_that_is_not_of_googles_flavor_is_a_failure(google: Made) -> None:
    service, source = google
    service.broken = Reply(200, "TRUE", {"ETag": "1"})
    with pytest.raises(SourceFailed, match="no metadata server"):
        await said(source)


# -- Azure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Preempt", "Terminate", "Reboot", "Redeploy", "Freeze", "Melt"])
async def test_azure_event_says_what_happens_and_when(azure: Made, kind: str) -> None:
    service, source = azure
    await service.schedule(kind, 30)
    [[notice]] = await said(source)
    assert notice.reason.startswith("Azure ")
    assert 27 < notice.left() <= 30


async def test_azure_event_of_another_machine_is_none_of_ours(azure: Made) -> None:
    service, source = azure
    await service.schedule("Reboot", 30, "FrontEnd_IN_7", event_id="other")
    assert await said(source) == [frozenset()]


async def test_azure_is_told_that_it_may_begin_and_the_notice_stays_until_it_is_over(
    azure: Made,
) -> None:
    service, source = azure
    await service.schedule("Preempt", 30, event_id="mine")
    await service.schedule("Reboot", 30, "FrontEnd_IN_7", event_id="other")
    watching = source.watch()
    before = await anext(watching)
    await source.drained()
    assert service.started == ["mine"]
    post = next(one for one in service.requests if one.method == "POST")
    assert json.loads(post.body) == {"StartRequests": [{"EventId": "mine"}]}
    count = len(service.requests)
    waiting = asyncio.ensure_future(anext(watching))
    await service.until(lambda: len(service.requests) > count + 2)
    assert not waiting.done()  # started, without NotBefore: the same notice
    await source.drained()
    assert service.started == ["mine"]
    await service.withdraw()
    assert await asyncio.wait_for(waiting, PATIENCE) == frozenset()
    assert len(before) == 1
    await watching.aclose()


async def test_azure_is_not_told_to_begin_where_that_would_end_other_machines_too(
    azure: Made,
) -> None:
    service, source = azure
    await service.schedule("Reboot", 30, "FrontEnd_IN_7", service.NAME)
    [[notice]] = await said(source)
    assert notice.reason == "Azure reboots the VM"
    await source.drained()
    assert service.started == []


async def test_azure_event_that_has_started_already_leaves_no_time(azure: Made) -> None:
    service, source = azure
    await service.schedule("Preempt", 30)
    await service.start("f020ba2e")
    [[notice]] = await said(source)
    assert notice.left() == 0


async def test_azure_that_does_not_take_the_word_is_a_failure(azure: Made) -> None:
    service, source = azure
    await service.schedule("Preempt", 30)
    await said(source)
    service.broken = Reply(400, "{}")
    with pytest.raises(SourceFailed, match="400"):
        await source.drained()


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{}",
        '{"DocumentIncarnation": 5, "Events": {}}',
        '{"DocumentIncarnation": 5, "Events": ["Preempt"]}',
        '{"DocumentIncarnation": 5, "Events": [{"EventId": "1", "NotBefore": "soon"}]}',
    ],
)
async def test_azure_document_that_makes_no_sense_is_a_failure(azure: Made, document: str) -> None:
    service, source = azure
    service.broken = Reply(200, document)
    with pytest.raises(SourceFailed):
        await said(source)


async def test_every_request_to_azure_has_its_header_and_version(azure: Made) -> None:
    service: Service = azure[0]
    await service.give(30)
    await said(azure[1])
    assert {one.headers["metadata"] for one in service.requests} == {"true"}
    versions = {one.query["api-version"] for one in service.requests if "events" in one.path}
    assert versions == {"2020-07-01"}
