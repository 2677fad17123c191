"""The objects that are created in a cluster: valid, and as bare of rights as they can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from cluster.pod_security import violations
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.compute.backend import Compute, ComputeRefused
from sessionkeeper.errors import UsageError
from sessionkeeper.kubernetes.cluster import GIB, Cluster, Pool, Resources, read_cluster
from sessionkeeper.kubernetes.objects import CAPABILITIES, pod, prepull

VERSIONS = ("1.31", "1.36")
SPOT = Pool(
    "spot",
    {"cloud.google.com/gke-spot": "true"},
    ({"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"},),
    "compute",
    30.0,
)
CLUSTER = Cluster(
    "binder",
    "hub",
    "http://gateway:8889",
    "registry.example/agent:1",
    default_image="registry.example/base:1",
    pull_secrets=("pull",),
    service_account="compute",
    pools=(SPOT, Pool("on-demand")),
)
WANTED = Compute("sk-a-0123abcd-1", "a", "spot", "registry.example/ann/repo:abc", token="s3cret")
OWNER = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "gateway", "uid": "1-2-3"}


def made(profile: str, volumes: bool = True, **changes: Any) -> dict[str, Any]:
    cluster = replace(CLUSTER, profile=profile)
    return pod(cluster, replace(WANTED, **changes), OWNER, volumes)


@pytest.mark.parametrize("profile", ["criu", "unprivileged"])
@pytest.mark.parametrize("volumes", [False, True])
def test_pods_and_daemonsets_are_what_the_api_takes(profile: str, volumes: bool) -> None:
    cluster = replace(CLUSTER, profile=profile)
    pulled = prepull(cluster, "spot", ["r.io/a/b:1", "r.io/a/b:2", "kept:1"], OWNER, volumes)
    for version in VERSIONS[not volumes :] if volumes else VERSIONS:
        kubernetes_validate.validate(made(profile, volumes), version, strict=True)
        kubernetes_validate.validate(pulled, version, strict=True)


def test_an_unprivileged_pod_passes_the_restricted_standard() -> None:
    assert violations(made("unprivileged")) == set()
    pulled = prepull(replace(CLUSTER, profile="unprivileged"), "spot", ["r.io/a/b:1"], None, True)
    assert violations({"metadata": {}, "spec": pulled["spec"]["template"]["spec"]}) == set()


@pytest.mark.parametrize(
    ("where", "value", "control"),
    [
        ("allowPrivilegeEscalation", True, "Privilege Escalation"),
        ("privileged", True, "Privileged Containers"),
        ("runAsUser", 0, "Running as Non-root user"),
        ("runAsNonRoot", False, "Running as Non-root"),
        ("capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "Capabilities"),
        ("capabilities", {"drop": ["KILL"]}, "Capabilities"),
        ("seccompProfile", {"type": "Unconfined"}, "Seccomp"),
        ("appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
        ("procMount", "Unmasked", "/proc Mount Type"),
        ("seLinuxOptions", {"type": "spc_t"}, "SELinux"),
    ],
)
def test_the_rules_of_the_standard_find_what_breaks_them(
    where: str, value: object, control: str
) -> None:
    broken = made("unprivileged")
    broken["spec"]["containers"][0]["securityContext"][where] = value
    assert violations(broken) == {control}


def test_the_rules_of_the_standard_look_at_the_pod_as_well() -> None:
    broken = made("unprivileged")
    broken["spec"] |= {"hostPID": True, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}
    assert violations(broken) == {"Host Namespaces", "HostPath Volumes", "Volume Types"}


def test_the_criu_profile_asks_for_capabilities_by_name_and_says_why() -> None:
    [agent] = made("criu")["spec"]["containers"]
    security = agent["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": list(CAPABILITIES)}
    assert "privileged" not in security
    assert all(len(why) > 10 for why in CAPABILITIES.values())
    all_of_it = pod(replace(CLUSTER, privileged=True), WANTED, None, True)
    assert all_of_it["spec"]["containers"][0]["securityContext"]["privileged"]


def test_each_capability_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
    for name, why in CAPABILITIES.items():
        assert f"| `{name}` | {why} |" in text


def test_the_image_is_a_volume_where_the_cluster_has_them_else_only_named() -> None:
    with_volume, without = made("criu", True)["spec"], made("criu", False)["spec"]
    [image] = [one for one in with_volume["volumes"] if "image" in one]
    assert image["image"]["reference"] == WANTED.image
    assert not any("image" in one for one in without["volumes"])
    assert environment(with_volume)["SESSIONKEEPER_MOUNTED_IMAGE"] == WANTED.image
    assert environment(with_volume)["SESSIONKEEPER_MOUNTED_AT"] == "/image"
    assert "SESSIONKEEPER_MOUNTED_AT" not in environment(without)
    kept = made("criu", True, image="binder-ann-repo:abc")["spec"]
    assert "SESSIONKEEPER_MOUNTED_AT" not in environment(kept)  # no kubelet has it


def test_an_image_that_the_gateway_keeps_is_not_taken_for_somebody_elses() -> None:
    with pytest.raises(ComputeRefused, match="kept by the gateway"):
        made("unprivileged", image="binder-ann-repo:abc")


def test_unprivileged_kernels_run_in_the_session_s_image_with_the_agent_brought_in() -> None:
    spec = made("unprivileged")["spec"]
    assert spec["containers"][0]["image"] == WANTED.image
    assert environment(spec)["SESSIONKEEPER_INSIDE"] == WANTED.image
    [lending] = spec["initContainers"]
    assert lending["image"] == CLUSTER.agent_image
    [volume] = [one["name"] for one in lending["volumeMounts"]]
    [lent] = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] == volume]
    assert spec["containers"][0]["command"][0].startswith(lent["mountPath"])
    none = pod(replace(CLUSTER, profile="unprivileged"), replace(WANTED, image=None), None, False)
    assert none["spec"]["containers"][0]["image"] == CLUSTER.default_image


@pytest.mark.parametrize("profile", ["criu", "unprivileged"])
def test_no_pod_has_credentials_of_the_cluster_and_each_goes_with_its_gateway(profile: str) -> None:
    one = made(profile)
    assert one["spec"]["automountServiceAccountToken"] is False
    assert one["metadata"]["ownerReferences"] == [OWNER]
    assert one["spec"]["restartPolicy"] == "Never"
    assert one["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert one["spec"]["priorityClassName"] == "compute"


def test_a_pod_is_for_the_nodes_of_its_tier() -> None:
    spec = made("criu")["spec"]
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert spec["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    spec = made("criu", tier="on-demand")["spec"]
    assert spec["tolerations"] == []
    assert "priorityClassName" not in spec


@given(
    guarantee=st.integers(0, 64 * GIB),
    limit=st.none() | st.integers(1, 64 * GIB),
    profile=st.sampled_from(["criu", "unprivileged"]),
)
def test_a_pod_never_asks_for_more_than_it_may_have(
    guarantee: int, limit: int | None, profile: str
) -> None:
    if limit is not None and limit < guarantee:
        limit = guarantee
    spec = made(profile, guarantee=guarantee, limit=limit)["spec"]
    asked = spec["containers"][0]["resources"]
    assert int(asked["requests"]["memory"]) <= int(asked["limits"]["memory"])
    assert int(asked["requests"]["memory"]) >= guarantee
    kernels = int(environment(spec)["SESSIONKEEPER_MEMORY_BYTES"])
    assert guarantee <= kernels < int(asked["limits"]["memory"])


def test_the_agent_has_as_long_to_move_its_session_as_the_pod_has_to_end() -> None:
    spec = made("criu")["spec"]
    assert environment(spec)["SESSIONKEEPER_GRACE"] == "30s"
    assert environment(spec)["SESSIONKEEPER_NOTICES"] == "signal"
    assert spec["terminationGracePeriodSeconds"] > 30


def test_a_file_says_what_the_cluster_is(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        """
        namespace = "binder"
        instance = "hub"
        gateway_url = "http://gateway:8889"
        agent_image = "agent:1"
        grace = 20
        [resources]
        limit = 4294967296
        [[pools]]
        tier = "spot"
        tolerations = [{ key = "spot", operator = "Exists" }]
        """
    )
    cluster = read_cluster(file)
    assert cluster.resources == Resources(limit=4 * GIB)
    assert cluster.pool("spot").tolerations == ({"key": "spot", "operator": "Exists"},)
    assert cluster.grace == 20


HEAD = 'namespace="b"\ninstance="b"\ngateway_url="http://g"\nagent_image="a"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("namespace = 3", "is missing"),
        (HEAD + "colour = 1", "no 'colour'"),
        (HEAD + 'grace = "long"', "grace is 'long'"),
        (HEAD + "prepull = 1", "prepull is 1"),
        (HEAD + 'profile = "root"', "known are criu, unprivileged"),
        (HEAD + 'profile = "unprivileged"', "default_image is wanted"),
        (HEAD + "user = 0", "never root"),
        (HEAD + '[[pools]]\ntier = "cheap"', "a pool's tier is one of"),
        (HEAD + '[[pools]]\ntier = "spot"\n[[pools]]\ntier = "spot"', "two pools of one tier"),
        (HEAD + "[[pools]]\npatience = 1.0", "'tier' is missing"),
        ("[", "is not TOML"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_cluster(file)


def environment(spec: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in spec["containers"][0]["env"]}
