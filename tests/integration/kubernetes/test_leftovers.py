"""Whatever a gateway is doing when it is killed, nothing of it stays in the cluster."""

from __future__ import annotations

import random

from cluster.api import ApiServer
from cluster.machines import Machines

from sessionkeeper.bench.leftovers import leftovers, local_leftovers
from sessionkeeper.kubernetes.backend import KubernetesBackend
from sessionkeeper.kubernetes.cluster import Cluster

CLUSTER = Cluster("binder", "hub", "http://gateway:8889", "agent:1", image_volumes=True)


async def test_fifty_sessions_killed_while_they_start_leave_no_pod() -> None:
    chance = random.Random(1)
    async with ApiServer().serve() as api:
        machines = Machines(api)
        await machines.add("one")
        await machines.start()

        def make() -> KubernetesBackend:
            # The server does what it is asked, or not, and nobody hears of it.
            if chance.random() < 0.5:
                api.broken.append((chance.choice([0, 1, 429, 500]), {"Retry-After": "0"}))
            return KubernetesBackend(CLUSTER, lambda settings: setattr(settings, "host", api.url))

        assert await leftovers(make) == 0
        made = api.asked("POST", "/pods")
        assert made > 10
        assert api.objects["pods"] == {}
        await machines.stop()
        assert machines.running == {}


async def test_processes_of_this_machine_leave_nothing_either() -> None:
    assert await local_leftovers(sessions=10) == 0


async def test_rights_that_the_chart_gives_are_those_that_are_used() -> None:
    from sessionkeeper.bench.chart import rendered

    objects = list(rendered({}))
    allowed = {
        (resource, verb)
        for one in objects
        if one["kind"] in ("Role", "ClusterRole")
        for rule in one["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    async with ApiServer().serve() as api:
        machines = Machines(api)
        await machines.add("one")
        await machines.start()

        def make() -> KubernetesBackend:
            return KubernetesBackend(CLUSTER, lambda settings: setattr(settings, "host", api.url))

        await leftovers(make, sessions=10)
        backend = make()
        await backend.prepare(frozenset({"r.io/a/b:1"}))
        await backend.prepare(frozenset({"r.io/a/b:2"}))
        await backend.prepare(frozenset())
        await backend.close()
        used = {_right(*request) for request in api.requests}
        await machines.stop()
    assert used <= allowed
    # Its own pod is read inside of the cluster alone.
    assert allowed - used <= {("pods", "get")}


def _right(method: str, path: str, query: dict[str, str]) -> tuple[str, str]:
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    resource, *name = words[2:] if words[0] == "namespaces" else words
    verbs = {"POST": "create", "PUT": "update", "DELETE": "delete"}
    if method == "GET":
        return resource, "watch" if query.get("watch") else "get" if name else "list"
    return resource, verbs[method]
