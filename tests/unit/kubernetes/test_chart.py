"""The chart: what it renders is valid, has few rights, and is what the programs take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from cluster.pod_security import violations

from sessionkeeper.bench.chart import CHART, chart_seconds, rendered, validate
from sessionkeeper.cli.parser import parse
from sessionkeeper.kubernetes.cluster import Cluster, read_cluster
from sessionkeeper.retention import parse_retention
from sessionkeeper.settings import GatewaySettings, UiSettings, load

FILES = sorted(file.stem for file in (CHART / "values").glob("*.yaml"))
EVERYTHING: dict[str, Any] = {
    "metrics": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}},
    "ui": {"ingress": {"enabled": True, "host": "lab.example.org", "tlsSecret": "tls"}},
    "images": {"pullSecrets": ["pull"]},
    "store": {"url": "s3://bucket/prefix", "existingSecret": "s3"},
    "gateway": {"extraArgs": ["--keep=forever"], "tolerations": [{"operator": "Exists"}]},
    "networkPolicies": {"compute": {"extraEgress": [{"to": [{"podSelector": {}}]}]}},
    "compute": {"imageVolumes": True, "labels": {"team": "a"}},
}


@cache
def objects(values: str) -> tuple[dict[str, Any], ...]:
    """Of one of the files, of the defaults, or with all that can be switched on."""
    return tuple(rendered(chosen(values)))


def chosen(values: str) -> dict[str, Any]:
    if values in ("default", "everything"):
        return EVERYTHING if values == "everything" else {}
    found: dict[str, Any] = yaml.safe_load((CHART / "values" / f"{values}.yaml").read_text())
    return found


def of_kind(kind: str, values: str = "default") -> list[dict[str, Any]]:
    return [one for one in objects(values) if one["kind"] == kind]


def named(kind: str, end: str, values: str = "default") -> dict[str, Any]:
    [found] = [one for one in of_kind(kind, values) if one["metadata"]["name"].endswith(end)]
    return found


@pytest.mark.parametrize("values", ["default", "everything", *FILES])
def test_all_that_is_rendered_is_valid(values: str) -> None:
    assert len(objects(values)) > 10
    for one in objects(values):
        validate(one)
        assert "namespace" not in one["metadata"]  # it is the release's


def test_files_are_there_for_a_single_node_and_the_spot_pools_of_three_clouds() -> None:
    assert {"single-node-k3s", "gke-spot", "eks-spot", "aks-spot"} <= set(FILES)


def test_an_older_cluster_takes_it_as_well() -> None:
    for one in objects("everything"):
        validate(one, "1.31")


def test_rendering_and_validating_takes_less_than_five_seconds() -> None:
    assert chart_seconds() < 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "root"},
        {"colour": "red"},
        {"compute": {"grace": "soon"}},
        {"compute": {"user": 0}},
        {"compute": {"pools": []}},
        {"compute": {"pools": [{"tier": "cheap"}]}},
        {"compute": {"pools": [{"tier": "spot", "tolerations": [{"operator": "Always"}]}]}},
        {"compute": {"resources": {"limit": "2G"}}},
        {"store": {"url": "ftp://example.org"}},
        {"gateway": {"leaseSeconds": "4"}},
        {"gateway": {"replicas": 2}},
        {"gateway": {"storage": {"size": "much"}}},
        {"images": {"gateway": {"repository": ""}}},
        {"ui": {"service": {"port": 70000}}},
        {"jupyterhub": {}, "binderhub": {"enabled": "yes"}},
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused_by_the_schema(wrong: dict[str, Any]) -> None:
    with helm_python.Chart.load(str(CHART)) as chart, pytest.raises(helm_python.HelmError):
        chart.validate_schema(chart.merge_values(wrong))


def test_every_value_is_in_the_schema_and_says_what_it_is_for() -> None:
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values({}))
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load(text)) == set(schema["properties"]) - {"global"}
    assert text.count("#") > 40


@pytest.mark.parametrize("values", ["default", "everything", "gke-spot", "single-node-k3s"])
def test_the_gateway_reads_the_cluster_as_the_chart_writes_it(values: str, tmp_path: Path) -> None:
    cluster = written(values, tmp_path)
    pools = chosen(values).get("compute", {}).get("pools", [{"tier": "on-demand"}])
    assert list(cluster.tiers) == [pool["tier"] for pool in pools]
    assert cluster.namespace == "binder"
    service = named("Service", "sessionkeeper", values)
    host = f"{service['metadata']['name']}.binder.svc:{service['spec']['ports'][0]['port']}"
    assert cluster.gateway_url == f"http://{host}"
    assert (
        named("ServiceAccount", "-compute", values)["metadata"]["name"] == cluster.service_account
    )
    for pool in cluster.pools:
        assert pool.priority_class in [
            one["metadata"]["name"] for one in of_kind("PriorityClass", values)
        ]
    if values == "gke-spot":
        spot = cluster.pool("spot")
        assert spot.tolerations[0]["value"] == "true"
        assert spot.node_selector == {"cloud.google.com/gke-spot": "true"}
    if values == "everything":
        assert (cluster.image_volumes, cluster.labels) == (True, {"team": "a"})


def written(values: str, directory: Path) -> Cluster:
    config = named("ConfigMap", "sessionkeeper", values)
    file = directory / "cluster.toml"
    file.write_text(config["data"]["cluster.toml"])
    return read_cluster(file)


@pytest.mark.parametrize("values", ["default", "everything", "eks-spot"])
def test_the_programs_take_the_flags_that_the_chart_gives_them(values: str, tmp_path: Path) -> None:
    kinds = {"gateway": GatewaySettings, "ui": UiSettings}
    for workload in (*of_kind("StatefulSet", values), *of_kind("Deployment", values)):
        [container] = workload["spec"]["template"]["spec"]["containers"]
        for mount in container["volumeMounts"]:
            (tmp_path / mount["mountPath"][1:]).mkdir(parents=True, exist_ok=True)
        for name in ("token", "agent-token", "session-token", "ui-token"):
            (tmp_path / "etc/sessionkeeper/secrets" / name).write_text("s3cret")
        (tmp_path / "etc/sessionkeeper/cluster").mkdir(exist_ok=True)
        (tmp_path / "etc/sessionkeeper/cluster/cluster.toml").touch()
        words = [
            re.sub("=/(var|etc)/", rf"={tmp_path}/\1/", word)
            for word in (*container["command"][1:], *container["args"])
        ]
        settings: Any = load(kinds[words[0]], vars(parse(words)), environ={})
        if words[0] == "gateway":
            assert (settings.compute, settings.compute_name) == ("kubernetes", "binder")
            assert settings.store.endswith("/store") or settings.store == "s3://bucket/prefix"
            # What an operator adds comes last, and wins.
            assert (settings.keep == parse_retention("forever")) is (values == "everything")


@pytest.mark.parametrize("values", ["default", "everything"])
def test_gateway_and_ui_pass_the_restricted_pod_security_standard(values: str) -> None:
    for workload in (*of_kind("StatefulSet", values), *of_kind("Deployment", values)):
        assert violations({"metadata": {}, "spec": workload["spec"]["template"]["spec"]}) == set()


def test_there_is_one_gateway_and_it_is_not_evicted_by_accident() -> None:
    gateway = of_kind("StatefulSet")[0]
    assert gateway["spec"]["replicas"] == 1
    [budget] = of_kind("PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1
    labels = gateway["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_only_the_gateway_has_rights_in_the_cluster_and_it_has_the_least() -> None:
    gateway = of_kind("StatefulSet")[0]["spec"]["template"]["spec"]
    subjects = [
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for one in of_kind(kind)
        for subject in one["subjects"]
    ]
    assert set(subjects) == {gateway["serviceAccountName"]}
    for one in (*of_kind("Role"), *of_kind("ClusterRole")):
        for rule in one["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert not {"secrets", "configmaps", "pods/exec", "roles"} & set(rule["resources"])
    [nodes] = of_kind("ClusterRole")
    assert nodes["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}
    ]
    for account in of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    [ui] = of_kind("Deployment")
    assert ui["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_user_code_reaches_the_gateway_names_and_the_internet_and_nobody_reaches_it() -> None:
    policy = named("NetworkPolicy", "-compute")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    gateway, names, internet = policy["egress"]
    assert (
        gateway["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    )
    assert gateway["ports"] == [{"protocol": "TCP", "port": 8889}]
    assert {one["port"] for one in names["ports"]} == {53}
    left_out = internet["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(left_out)  # the cluster, and metadata services
    closed = tuple(rendered({"networkPolicies": {"compute": {"internet": False}}}))
    [alone] = [
        one
        for one in closed
        if one["metadata"]["name"].endswith("-compute") and one["kind"] == "NetworkPolicy"
    ]
    assert len(alone["spec"]["egress"]) == 2


def test_secrets_are_long_stay_with_the_store_and_are_in_no_argument() -> None:
    [secret] = of_kind("Secret")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert set(secret["data"]) == {
        "token",
        "agent-token",
        "session-token",
        "ui-token",
        "master-key-hex",
    }
    assert len(set(secret["data"].values())) == 5
    words = json.dumps([of_kind("StatefulSet"), of_kind("Deployment"), of_kind("ConfigMap")])
    assert not [value for value in secret["data"].values() if value in words]
    assert not list(of(rendered({"secrets": {"existingSecret": "mine"}}), "Secret"))


def of(found: Iterator[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    return (one for one in found if one["kind"] == kind)


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((CHART / "dashboards" / "sessionkeeper.json").read_text())
    asked = {
        re.sub("_(bucket|total)$", "", name)
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall("sessionkeeper_[a-z_]+", target["expr"])
    }
    root = CHART.parents[1]
    sources = (root / "gateway/metrics.py", root / "sessionkeeper/keeper/metrics.py")
    there = {
        name for one in sources for name in re.findall('"(sessionkeeper_[a-z_]+)"', one.read_text())
    }
    assert asked <= there
    assert there - asked <= {"sessionkeeper_clients"}
    shown = named("ConfigMap", "-dashboard", "everything")["data"]["sessionkeeper.json"]
    assert json.loads(shown) == dashboard
    [monitor] = of_kind("ServiceMonitor", "everything")
    assert monitor["spec"]["endpoints"][0]["path"] == "/metrics"


def test_lint_has_nothing_to_say_but_that_optional_charts_are_not_here() -> None:
    said = helm_python.lint(str(CHART))
    assert said["errors"] == []
    for one in said["messages"]:
        assert one["severity"] <= 2
        assert "dependencies" in one["error"] or "icon" in one["error"]


def test_notes_say_what_must_be_kept() -> None:
    with helm_python.Chart.load(str(CHART)) as chart:
        notes = chart.render({}, name="binder", namespace="binder")
    [text] = [text for file, text in notes.items() if file.endswith("NOTES.txt")]
    assert "MASTER KEY" in text
    assert "port-forward" in text
