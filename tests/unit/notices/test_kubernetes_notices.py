"""What a pod and a node of Kubernetes say, over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from metadata.cluster import ClusterService
from metadata.service import FAULTS, Reply

from sessionkeeper.notices.kubernetes import (
    TAINTS,
    KubernetesWatch,
    here,
    of_node,
    of_pod,
)
from sessionkeeper.notices.notice import Notice, SourceFailed

PATIENCE = 20.0


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[ClusterService]:
    async with ClusterService().serve() as service:
        yield service


async def following(said: AsyncIterator[frozenset[Notice]]) -> frozenset[Notice]:
    return await asyncio.wait_for(anext(said), PATIENCE)


@pytest.mark.parametrize("key", TAINTS)
def test_every_known_taint_is_a_notice_or_advice(key: str) -> None:
    [notice] = of_node({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}}).values()
    assert notice.reason == TAINTS[key][0]
    assert (notice.deadline is None) == (TAINTS[key][1] is None)


@pytest.mark.parametrize(
    "node", [{}, {"spec": None}, {"spec": {"taints": None}}, {"spec": {"taints": [{"key": "gpu"}]}}]
)
def test_any_other_node_is_none(node: dict[str, object]) -> None:
    assert of_node(node) == {}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TerminationByKubelet", "the node of its pod shuts down"),
        ("PreemptionByScheduler", "its pod makes room for another one"),
        ("SomethingNew", "its pod is disrupted"),
    ],
)
def test_a_disruption_leaves_the_grace_period_of_the_pod(reason: str, words: str) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    spec = {"terminationGracePeriodSeconds": 20}
    pod = {"spec": spec, "status": {"conditions": [condition]}}
    [notice] = of_pod(pod, float).values()
    assert notice.reason == words
    assert 15 < (notice.left() or 0) <= 20
    condition["status"] = "False"
    assert of_pod(pod, float) == {}


async def test_a_deleted_pod_says_until_when_and_why(cluster: ClusterService) -> None:
    said = KubernetesWatch("pod", cluster.place).watch()
    assert await following(said) == frozenset()
    await cluster.delete_pod(40, "EvictionByEvictionAPI")
    found = await following(said)
    while "evicted" not in next(iter(found)).reason or (next(iter(found)).left() or 0) < 25:
        found = await following(said)
    [notice] = found
    assert 35 < (notice.left() or 0) <= 40
    await said.aclose()


async def test_two_taints_are_two_notices_and_one_can_go(cluster: ClusterService) -> None:
    said = KubernetesWatch("node", cluster.place).watch()
    await following(said)
    await cluster.taint("DeletionCandidateOfClusterAutoscaler", "ToBeDeletedByClusterAutoscaler")
    both = await following(said)
    assert sorted(one.deadline is None for one in both) == [False, True]
    await cluster.taint("DeletionCandidateOfClusterAutoscaler", "some-taint")
    [advice] = await following(said)
    assert advice.deadline is None
    assert advice in both
    await said.aclose()


async def test_a_watch_that_ends_or_is_too_old_goes_on_and_repeats_nothing(
    cluster: ClusterService,
) -> None:
    said = KubernetesWatch("node", cluster.place).watch()
    await following(said)
    waiting = asyncio.ensure_future(anext(said))
    cluster.cut, cluster.gone = 2, 1
    await cluster.tell()
    await cluster.until(lambda: len(cluster.requests) >= 4)
    assert not waiting.done()
    await cluster.taint("karpenter.sh/disrupted")
    [notice] = await asyncio.wait_for(waiting, PATIENCE)
    assert notice.reason == "Karpenter removes it"
    await said.aclose()


async def test_gone_without_end_is_a_failure(cluster: ClusterService) -> None:
    cluster.gone = 100
    with pytest.raises(SourceFailed, match="says nothing of node spot-3"):
        await following(KubernetesWatch("node", cluster.place).watch())


async def test_the_node_is_found_by_the_pod(cluster: ClusterService) -> None:
    await cluster.taint("karpenter.sh/disrupted")
    said = KubernetesWatch("node", lambda: cluster.place(node=None)).watch()
    assert len(await following(said)) == 1
    await said.aclose()


@pytest.mark.parametrize("kind", ["node", "pod"])
async def test_without_the_right_to_watch_it_says_which_one_is_missing(
    cluster: ClusterService, kind: str
) -> None:
    cluster.broken = Reply(403, json.dumps({"kind": "Status", "code": 403, "message": "no"}))
    with pytest.raises(SourceFailed, match="403") as failed:
        await following(KubernetesWatch(kind, cluster.place).watch())  # type: ignore[arg-type]
    assert f"`watch` for {kind}s" in failed.value.hint


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_is_no_answer_is_a_failure_and_never_a_notice(
    cluster: ClusterService, fault: str
) -> None:
    cluster.broken = FAULTS[fault]
    watch = KubernetesWatch("node", lambda: cluster.place(node=None))
    with pytest.raises(SourceFailed):
        await following(watch.watch())


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"type": "ADDED"}', '{"type": "ADDED", "object": 7}']
)
async def test_events_that_make_no_sense_are_a_failure(cluster: ClusterService, line: str) -> None:
    cluster.lines = [line]
    with pytest.raises(SourceFailed):
        await following(KubernetesWatch("node", cluster.place).watch())


def test_outside_a_pod_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="no Kubernetes pod"):
        here({}, tmp_path)
    (tmp_path / "namespace").write_text("binder\n")
    found = here({"HOSTNAME": "agent-1", "NODE_NAME": "spot-3"}, tmp_path)
    assert (found.pod, found.namespace, found.node) == ("agent-1", "binder", "spot-3")
