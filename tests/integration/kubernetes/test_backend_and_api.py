"""The backend against an API server that fails as real ones do: see `cluster.api`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from cluster.api import ApiServer, Refused
from cluster.machines import Machines

from sessionkeeper.compute.backend import Compute, ComputeFailed, ComputeRefused, Found
from sessionkeeper.kubernetes import reflector
from sessionkeeper.kubernetes.backend import KubernetesBackend
from sessionkeeper.kubernetes.cluster import Cluster, Pool

PATIENCE = 30.0
SPOT = Pool("spot", {"pool": "spot"}, ({"key": "spot", "operator": "Exists"},))
CLUSTER = Cluster("binder", "hub", "http://gateway:8889", "agent:1", pools=(SPOT,))
NAME = "sk-a-0123abcd-1"
WANTED = Compute(NAME, "a", "spot", "r.io/a/b:1", token="s3cret")
OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet"}


@pytest_asyncio.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer().serve() as api:
        yield api


@pytest_asyncio.fixture
async def machines(api: ApiServer) -> AsyncIterator[Machines]:
    machines = Machines(api)
    await machines.add("one", {"pool": "spot"}, "spot")
    await machines.start()
    yield machines
    await machines.stop()


@pytest_asyncio.fixture
async def backend(api: ApiServer) -> AsyncIterator[KubernetesBackend]:
    backend = of(api)
    yield backend
    await backend.close()


def of(api: ApiServer, **changes: Any) -> KubernetesBackend:
    def configure(settings: Any) -> None:
        settings.host = api.url

    return KubernetesBackend(replace(CLUSTER, **changes), configure)


class Follower:
    """What a watch has said so far, and what it failed with; begun anew after a failure."""

    def __init__(self, backend: KubernetesBackend) -> None:
        self.now: Mapping[str, Found] | None = None
        self.failures: list[ComputeFailed] = []
        self._backend = backend
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        while True:
            try:
                async with aclosing(self._backend.watch()) as said:
                    async for now in said:
                        async with self._changed:
                            self.now = now
                            self._changed.notify_all()
            except ComputeFailed as error:
                self.failures.append(error)
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[Mapping[str, Found]], Any]) -> Mapping[str, Found]:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.now is not None and condition(self.now))
            assert self.now is not None
            return self.now


@asynccontextmanager
async def following(backend: KubernetesBackend) -> AsyncIterator[Follower]:
    follower = Follower(backend)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def phase(now: Mapping[str, Found]) -> str | None:
    return now[NAME].phase if NAME in now else None


async def test_a_pod_that_was_made_though_nobody_heard_of_it_is_found_by_its_name(
    api: ApiServer, backend: KubernetesBackend
) -> None:
    await backend.prepare(frozenset())  # asks for the version
    api.broken.append((0, {}))
    with pytest.raises(ComputeFailed) as failed:
        await backend.start(WANTED)
    assert failed.value.retryable
    assert list(api.objects["pods"]) == [NAME]
    await backend.start(WANTED)
    assert list(api.objects["pods"]) == [NAME]


async def test_a_name_that_another_one_has_is_refused_and_one_that_ends_waited_for(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    await of(api, instance="another").start(WANTED)
    with pytest.raises(ComputeRefused, match="somebody else's"):
        await backend.start(WANTED)
    await api.remove("pods", NAME)
    await backend.start(WANTED)
    await api.until(lambda: NAME in machines.running)

    def ending(pod: dict[str, Any]) -> None:
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    await machines.vanish("one")
    await api.update("pods", NAME, ending)
    with pytest.raises(ComputeFailed, match="just ending") as failed:
        await backend.start(WANTED)
    assert failed.value.retryable


async def test_a_rate_limit_says_how_long_to_leave_it_alone(
    api: ApiServer, backend: KubernetesBackend
) -> None:
    await backend.prepare(frozenset())
    api.broken.append((429, {"Retry-After": "7"}))
    with pytest.raises(ComputeFailed) as failed:
        await backend.start(WANTED)
    assert (failed.value.retryable, failed.value.after) == (True, 7.0)


@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (403, False), (422, False), (500, True), (503, True)]
)
async def test_what_asking_again_cannot_help_is_told_from_what_it_can(
    api: ApiServer, backend: KubernetesBackend, status: int, retryable: bool
) -> None:
    await backend.prepare(frozenset())
    api.broken.append((status, {}))
    with pytest.raises(ComputeFailed) as failed:
        await backend.start(WANTED)
    assert failed.value.retryable is retryable


async def test_a_watch_sees_a_pod_come_run_end_and_go(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    async with following(backend) as seen:
        await seen.until(lambda now: now == {})
        await backend.start(WANTED)
        running = await seen.until(lambda now: phase(now) == "running")
        assert running[NAME].machine == "one"
        machines.running[NAME][1].terminate()
        await seen.until(lambda now: phase(now) == "ended")
        await backend.stop(NAME)
        await seen.until(lambda now: now == {})
    assert seen.failures == []
    assert api.asked("GET", "/pods", limit=str(reflector.LIST_LIMIT)) == 1


async def test_nothing_is_asked_again_and_again_while_nothing_happens(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    async with following(backend) as seen:
        await seen.until(lambda now: now == {})
        for number in range(3):
            await backend.start(replace(WANTED, name=f"sk-a-0123abcd-{number}"))
        await seen.until(lambda now: [one.phase for one in now.values()] == ["running"] * 3)
        assert api.asked("GET", "/pods") == 2  # one list, one watch
        assert api.asked("GET", "/nodes") == 2


@pytest.mark.parametrize("as_status", [False, True])
async def test_a_version_that_is_gone_leads_to_a_new_list_and_nothing_is_missed(
    api: ApiServer,
    backend: KubernetesBackend,
    machines: Machines,
    as_status: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflector, "WATCH_SECONDS", 1 if as_status else 60)
    api.gone_as_status = as_status
    async with following(backend) as seen:
        await seen.until(lambda now: now == {})
        await api.until(lambda: api.asked("GET", "/pods", watch="true") > 0)
        async with api.changed:  # what happens and is forgotten before anybody is told
            api.version += 5
            api.compacted = api.version
            api.changed.notify_all()
        await backend.start(WANTED)
        await seen.until(lambda now: phase(now) == "running")
    assert seen.failures == []
    assert api.asked("GET", "/pods", limit=str(reflector.LIST_LIMIT)) >= 2


async def test_bookmarks_keep_a_quiet_watch_from_being_too_old(
    api: ApiServer, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "WATCH_SECONDS", 1)
    backend = of(api, watch_nodes=False)
    async with following(backend) as seen:
        await seen.until(lambda now: now == {})
        await api.until(lambda: api.asked("GET", "/pods", watch="true") == 1)
        for _ in range(3):  # of others
            await api.update("nodes", "one", lambda node: None)
        await api.bookmark()
        version = api.version
        await api.until(
            lambda: api.asked("GET", "/pods", watch="true", resourceVersion=str(version))
        )
        await api.compact()
        await backend.start(WANTED)
        await seen.until(lambda now: phase(now) == "running")
    assert api.asked("GET", "/pods", limit=str(reflector.LIST_LIMIT)) == 1
    await backend.close()


async def test_an_api_server_that_is_restarted_is_asked_again_and_what_happened_is_seen(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    async with following(backend) as seen:
        await backend.start(WANTED)
        await seen.until(lambda now: phase(now) == "running")
        await api.stop()
        with pytest.raises(ComputeFailed, match="does not answer") as failed:
            await backend.stop(NAME)
        assert failed.value.retryable
        machines.running[NAME][1].terminate()
        await api.until(lambda: api.objects["pods"][NAME]["status"]["phase"] == "Succeeded")
        await api.start()
        await seen.until(lambda now: phase(now) == "ended")
        assert seen.failures
        await backend.stop(NAME)
        await seen.until(lambda now: now == {})


async def test_many_pods_are_listed_in_pages_and_a_page_that_is_too_old_begins_anew(
    api: ApiServer, backend: KubernetesBackend
) -> None:
    names = [f"sk-a-0123abcd-{number}" for number in range(25)]
    for name in names:
        await backend.start(replace(WANTED, name=name))
    api.page = 10
    async with following(backend) as seen:
        assert sorted(await seen.until(bool)) == sorted(names)
    real = api._list

    def forgetful(plural: str, query: dict[str, str]) -> dict[str, Any]:
        if plural == "pods" and "continue" in query:
            api.page = 500
            raise Refused(410, "Expired", "the continue token is too old")
        return real(plural, query)

    api._list = forgetful  # type: ignore[method-assign]
    async with following(backend) as seen:
        assert sorted(await seen.until(bool)) == sorted(names)
        assert seen.failures == []


async def test_other_pods_are_none_of_ours(api: ApiServer, backend: KubernetesBackend) -> None:
    await of(api, instance="another").start(replace(WANTED, name="sk-z-0123abcd-1"))
    await backend.start(WANTED)
    async with following(backend) as seen:
        assert list(await seen.until(bool)) == [NAME]


async def test_an_eviction_and_a_taint_are_notices_with_one_deadline(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    async with following(backend) as seen:
        await backend.start(WANTED)
        await seen.until(lambda now: phase(now) == "running")
        await machines.taint("one", "spot", "ToBeDeletedByClusterAutoscaler")
        now = await seen.until(lambda now: now[NAME].notice)
        first = now[NAME].notice
        assert first is not None
        assert "autoscaler" in first.reason
        await api.update("nodes", "one", lambda node: node["metadata"].update(annotations={}))
        await api.update("pods", NAME, lambda pod: pod["metadata"].update(annotations={"a": "b"}))
        now = await seen.until(lambda now: now[NAME].session == "")
        assert now[NAME].notice == first
        await machines.taint("one", "spot")
        await seen.until(lambda now: not now[NAME].notice)


async def test_a_pod_that_finds_no_machine_says_why(
    api: ApiServer, backend: KubernetesBackend, machines: Machines
) -> None:
    await machines.cordon("one")
    await backend.start(WANTED)
    async with following(backend) as seen:
        now = await seen.until(lambda now: now[NAME].why)
        assert now[NAME].phase == "starting"
        assert "0/1 nodes are available" in now[NAME].why


async def test_without_the_right_to_watch_nodes_pods_are_known_all_the_same(
    api: ApiServer, backend: KubernetesBackend
) -> None:
    real = api._list

    def forbidden(plural: str, query: dict[str, str]) -> dict[str, Any]:
        if plural == "nodes":
            raise Refused(403, "Forbidden", "nodes is forbidden")
        return real(plural, query)

    api._list = forbidden  # type: ignore[method-assign]
    await backend.start(WANTED)
    async with following(backend) as seen:
        assert list(await seen.until(bool)) == [NAME]
        assert seen.failures == []


async def test_pods_go_when_the_gateway_is_uninstalled(
    api: ApiServer, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = await api.create("statefulsets", {"metadata": {"name": "gateway"}, "spec": {}})
    reference = {**OWNER, "name": "gateway", "uid": above["metadata"]["uid"], "controller": True}
    meta = {"name": "gateway-0", "ownerReferences": [reference]}
    await api.create("pods", {"metadata": meta, "spec": {}})
    monkeypatch.setenv("POD_NAME", "gateway-0")
    await backend.start(WANTED)
    await backend.prepare(frozenset({"r.io/a/b:1"}))
    [owner] = api.objects["pods"][NAME]["metadata"]["ownerReferences"]
    assert (owner["name"], owner["controller"]) == ("gateway", False)
    await api.remove("statefulsets", "gateway")
    assert api.objects["pods"] == {}
    assert api.objects["daemonsets"] == {}


async def test_images_are_pulled_ahead_and_who_writes_at_the_same_time_is_not_overwritten(
    api: ApiServer, backend: KubernetesBackend
) -> None:
    await backend.prepare(frozenset({"r.io/a/b:1"}))
    [before] = api.objects["daemonsets"].values()
    real, beaten = api._put, []

    async def faster(plural: str, name: str, new: dict[str, Any]) -> dict[str, Any]:
        if not beaten:
            beaten.append(name)
            await api.update(plural, name, lambda one: one["metadata"].update(labels={"new": "1"}))
        return await real(plural, name, new)

    api._put = faster  # type: ignore[method-assign]
    await backend.prepare(frozenset({"r.io/a/b:1", "r.io/a/b:2"}))
    [after] = api.objects["daemonsets"].values()
    assert beaten
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    volumes = after["spec"]["template"]["spec"]["volumes"]
    assert {one["image"]["reference"] for one in volumes} == {"r.io/a/b:1", "r.io/a/b:2"}
    asked = api.asked("PUT", after["metadata"]["name"])
    await backend.prepare(frozenset({"r.io/a/b:2", "r.io/a/b:1"}))
    assert api.asked("PUT", after["metadata"]["name"]) == asked
    await backend.prepare(frozenset())
    assert api.objects["daemonsets"] == {}


@pytest.mark.parametrize(("minor", "volumes"), [("36", True), ("35+", True), ("34", False)])
async def test_image_volumes_are_used_where_the_cluster_has_them(
    api: ApiServer, backend: KubernetesBackend, minor: str, volumes: bool
) -> None:
    api.minor = minor
    await backend.start(WANTED)
    made = api.objects["pods"][NAME]["spec"]["volumes"]
    assert any("image" in volume for volume in made) is volumes
