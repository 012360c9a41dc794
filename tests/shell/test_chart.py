"""What the chart renders: a table of values and the facts that must follow from them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import EVERYTHING, Helm, HelmFailed, Json, named, one

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "autoglm-operator"
GATEWAY = "autoglm-gateway"
SITES = "CustomResourceDefinition/autoglmsites.serving.autoglm.dev"


@pytest.fixture(scope="module")
def plain(helm: Helm) -> list[Json]:
    return helm.render()


@pytest.fixture(scope="module")
def full(helm: Helm) -> list[Json]:
    return helm.render(EVERYTHING)


def at(value: Any, path: str) -> Any:
    """A value in an object: "spec.template.spec.containers.0.args"."""
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value.get(part)
        if value is None:
            return None
    return value


def pods(objects: list[Json]) -> Iterator[tuple[str, Json]]:
    """The pods of all objects: name and spec."""
    for entry in objects:
        if entry["kind"] == "Pod":
            yield entry["metadata"]["name"], entry["spec"]
        elif entry["kind"] == "Deployment":
            yield entry["metadata"]["name"], entry["spec"]["template"]["spec"]


# Values, an object, a path in it, and what must be there. None: there is no such thing.
FACTS: list[tuple[Json, str, str, Any]] = [
    ({}, f"Deployment/{OPERATOR}", "spec.replicas", 2),
    ({}, f"Deployment/{GATEWAY}", "spec.replicas", None),
    ({}, f"Deployment/{GATEWAY}", "spec.strategy.rollingUpdate.maxUnavailable", 0),
    ({}, f"PodDisruptionBudget/{OPERATOR}", "spec.maxUnavailable", 1),
    ({}, f"Service/{GATEWAY}-admin", "spec.publishNotReadyAddresses", True),
    ({}, f"Service/{GATEWAY}-admin", "spec.clusterIP", "None"),
    ({}, f"Deployment/{OPERATOR}", "spec.template.spec.automountServiceAccountToken", True),
    ({}, f"Deployment/{GATEWAY}", "spec.template.spec.automountServiceAccountToken", False),
    ({}, f"Deployment/{GATEWAY}", "spec.template.spec.terminationGracePeriodSeconds", 45),
    ({}, f"HorizontalPodAutoscaler/{GATEWAY}", "spec.maxReplicas", 6),
    (
        {"gateway": {"autoscaling": {"enabled": False}, "replicas": 3}},
        f"Deployment/{GATEWAY}",
        "spec.replicas",
        3,
    ),
    (
        {"operator": {"image": {"repository": "r/o", "tag": "1.2"}}},
        f"Deployment/{OPERATOR}",
        "spec.template.spec.containers.0.image",
        "r/o:1.2",
    ),
    (
        {"gateway": {"image": {"repository": "r/g", "tag": "1.2", "digest": "sha256:" + "a" * 64}}},
        f"Deployment/{GATEWAY}",
        "spec.template.spec.containers.0.image",
        "r/g@sha256:" + "a" * 64,
    ),
    ({"gateway": {"drainSeconds": 60}}, f"Deployment/{GATEWAY}", "spec.template.spec.terminationGracePeriodSeconds", 75),
    (
        {"gateway": {"token": {"existingSecret": "mine", "key": "k"}}},
        f"Deployment/{GATEWAY}",
        "spec.template.spec.volumes.2.secret",
        {"secretName": "mine", "defaultMode": 0o440, "items": [{"key": "k", "path": "token"}]},
    ),
    ({"gateway": {"service": {"port": 8443}}}, f"Service/{GATEWAY}", "spec.ports.0.port", 8443),
    (
        {"operator": {"serviceAccount": {"name": "robot"}}},
        f"Deployment/{OPERATOR}",
        "spec.template.spec.serviceAccountName",
        "robot",
    ),
    ({"crds": {"keep": True}}, SITES, "metadata.annotations", {"helm.sh/resource-policy": "keep"}),
    ({"crds": {"keep": False}}, SITES, "metadata.annotations", None),
    ({"networkPolicy": {"egress": False}}, f"NetworkPolicy/{GATEWAY}", "spec.policyTypes", ["Ingress"]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "what", "path", "fact"), FACTS, ids=lambda value: str(value)[:60])
def test_a_value_has_its_effect(helm: Helm, values: Json, what: str, path: str, fact: Any) -> None:
    kind, name = what.split("/")
    assert at(one(helm.render(values), kind, name), path) == fact


# Values, and objects that are then there or are not.
PRESENCE: list[tuple[Json, set[str], set[str]]] = [
    (
        {},
        {f"Deployment/{OPERATOR}", f"Secret/{GATEWAY}-token", SITES},
        {f"ServiceMonitor/{OPERATOR}", "PrometheusRule/autoglm", "ConfigMap/autoglm-dashboard"},
    ),
    ({"crds": {"install": False}}, set(), {SITES}),
    (
        {"gateway": {"enabled": False}},
        {f"Deployment/{OPERATOR}", f"NetworkPolicy/{OPERATOR}"},
        {
            f"{kind}/{GATEWAY}"
            for kind in ("Deployment", "Service", "ServiceAccount", "NetworkPolicy", "HorizontalPodAutoscaler")
        }
        | {f"Secret/{GATEWAY}-token", "Pod/autoglm-test"},
    ),
    ({"gateway": {"token": {"existingSecret": "mine"}}}, set(), {f"Secret/{GATEWAY}-token"}),
    ({"gateway": {"autoscaling": {"enabled": False}}}, set(), {f"HorizontalPodAutoscaler/{GATEWAY}"}),
    ({"networkPolicy": {"enabled": False}}, set(), {f"NetworkPolicy/{OPERATOR}", f"NetworkPolicy/{GATEWAY}"}),
    ({"operator": {"serviceAccount": {"create": False}}}, set(), {f"ServiceAccount/{OPERATOR}"}),
    ({"operator": {"podDisruptionBudget": {"enabled": False}}}, set(), {f"PodDisruptionBudget/{OPERATOR}"}),
]  # fmt: skip


@pytest.mark.parametrize(("values", "there", "missing"), PRESENCE, ids=lambda value: str(value)[:60])
def test_a_value_brings_objects_or_takes_them_away(
    helm: Helm, values: Json, there: set[str], missing: set[str]
) -> None:
    found = named(helm.render(values))
    assert there <= found
    assert not missing & found


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"operater": {}}, "operater"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"gateway": {"image": {"digest": "latest"}}}, "digest"),
        ({"operator": {"siteSecrets": [{"namespace": "a"}]}}, "names"),
    ],
    ids=str,
)
def test_helm_refuses_values_that_the_schema_does_not_know(helm: Helm, values: Json, words: str) -> None:
    with pytest.raises(HelmFailed, match=words):
        helm.render(values)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["plain", "everything"])
def test_every_object_says_where_it_belongs(helm: Helm, values: Json) -> None:
    for entry in helm.render(values):
        labels = entry["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "autoglm", entry
        assert labels["app.kubernetes.io/instance"] == "autoglm"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/part-of"] == "autoglm"
        assert len(entry["metadata"]["name"]) <= 63
        if values:
            assert labels["team"] == "phones"


def test_names_fit_however_long_the_release_is_called(helm: Helm) -> None:
    for entry in helm.render(release="a-release-whose-name-is-as-long-as-helm-allows-it-now"):
        assert len(entry["metadata"]["name"]) <= 63 or entry["kind"].startswith("Cluster"), entry["metadata"]["name"]


def test_selectors_find_the_pods_that_they_mean_and_no_others(plain: list[Json]) -> None:
    labels = {
        entry["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: entry["spec"]["template"][
            "metadata"
        ]["labels"]
        for entry in plain
        if entry["kind"] == "Deployment"
    }
    selectors = {
        f"{entry['kind']}/{entry['metadata']['name']}": selector.get("matchLabels", selector)
        for entry in plain
        for selector in [at(entry, "spec.selector") or at(entry, "spec.podSelector")]
        if selector
    }
    assert len(selectors) == 9
    for name, selector in selectors.items():
        found = [component for component, have in labels.items() if selector.items() <= have.items()]
        assert found == ["gateway" if "gateway" in name else "operator"], name


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["plain", "everything"])
def test_every_pod_keeps_the_restricted_standard_and_has_limits(helm: Helm, values: Json) -> None:
    seen = 0
    for name, spec in pods(helm.render(values)):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for volume in spec.get("volumes", ()):
            assert {"emptyDir", "secret"} & volume.keys(), volume
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], f"{volume} has no bound"
        for container in spec["containers"]:
            seen += 1
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"], name
    assert seen == 3


def test_the_operators_rights_are_those_of_the_plain_manifests(plain: list[Json]) -> None:
    with (ROOT / "config/rbac/operator.yaml").open() as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    for kind, ours, theirs in (
        ("ClusterRole", "autoglm-system-autoglm-operator", "autoglm-operator"),
        ("Role", "autoglm-operator-lease", "autoglm-operator-lease"),
    ):
        assert _granted(one(plain, kind, ours)) == _granted(one(documents, kind, theirs))


def test_the_rights_on_kuberay_are_those_of_the_plain_manifests(full: list[Json]) -> None:
    documents = yaml.safe_load_all((ROOT / "config/rbac/site-kuberay.yaml").read_text())
    plain = next(document for document in documents if document["kind"] == "Role")
    role = one(full, "Role", f"{OPERATOR}-kuberay")
    assert role["metadata"]["namespace"] == "ray"
    assert _granted(role) == _granted(plain)


def _granted(role: Json) -> set[tuple[str, ...]]:
    return {
        (group, resource, verb, ",".join(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_no_rule_is_wider_than_it_must_be(full: list[Json], plain: list[Json]) -> None:
    for role in (entry for entry in full + plain if entry["kind"] in ("Role", "ClusterRole")):
        for group, resource, verb, names in _granted(role):
            assert "*" not in (group, resource, verb)
            assert resource != "secrets" or (verb == "get" and names), role["metadata"]["name"]
            assert "rbac" not in group
            assert resource not in ("pods", "nodes") or verb == "list", "they are counted, and nothing else"
            assert resource != "pods/exec"


def test_an_operator_of_some_namespaces_has_no_right_on_deployments_elsewhere(full: list[Json]) -> None:
    cluster = _granted(one(full, "ClusterRole", "autoglm-system-autoglm-operator"))
    of_others = {grant for grant in cluster if not grant[1].startswith("autoglmsites")}
    counted = {("", "nodes", "list", ""), ("", "pods", "list", "")}
    assert of_others - counted == {("", "namespaces", "get", "kube-system")}, (
        "its uid names the cluster in applications"
    )
    roles = {
        entry["metadata"]["namespace"]
        for entry in full
        if (entry["kind"], entry["metadata"]["name"]) == ("Role", OPERATOR)
    }
    assert roles == {"phones", "kiosks", "default"}
    arguments = at(one(full, "Deployment", OPERATOR), "spec.template.spec.containers.0.args")
    assert [part for part in arguments if "namespace" in part and "lease" not in part] == [
        "--namespace=phones",
        "--namespace=kiosks",
    ]


def test_nodes_and_pods_are_listed_only_where_kuberay_may_be_used(
    helm: Helm, full: list[Json], plain: list[Json]
) -> None:
    name = "autoglm-system-autoglm-operator"
    of_example = yaml.safe_load_all((ROOT / "config/rbac/site-kuberay.yaml").read_text())
    counted = _granted(next(document for document in of_example if document["kind"] == "ClusterRole"))
    assert counted <= _granted(one(full, "ClusterRole", name))
    without = helm.render({"operator": {"kubeRay": {"namespaces": ["ray"], "discovery": False}}})
    for rendered in (plain, without):
        assert not counted & _granted(one(rendered, "ClusterRole", name))


def test_secrets_of_sites_can_be_read_by_name_alone(full: list[Json]) -> None:
    role = next(
        entry for entry in full if entry["metadata"]["name"] == f"{OPERATOR}-site-secrets" and entry["kind"] == "Role"
    )
    assert role["metadata"]["namespace"] == "sites"
    assert _granted(role) == {("", "secrets", "get", "berlin,jena")}


def test_gateways_elsewhere_are_named_beside_those_of_the_chart(full: list[Json]) -> None:
    arguments = at(one(full, "Deployment", OPERATOR), "spec.template.spec.containers.0.args")
    assert "--gateway=http://10.0.0.7:9901,http://10.0.0.8:9901" in arguments
    assert "--gateway-service=http://autoglm-gateway-admin.autoglm-system.svc:9901" in arguments


def test_only_the_operator_and_monitoring_reach_the_admin_port(full: list[Json]) -> None:
    rules = one(full, "NetworkPolicy", GATEWAY)["spec"]["ingress"]
    (admin,) = [rule for rule in rules if rule["ports"] == [{"port": "admin"}]]
    assert len(admin["from"]) == 3
    components = [at(peer, "podSelector.matchLabels") for peer in admin["from"] if "podSelector" in peer]
    assert {labels["app.kubernetes.io/component"] for labels in components if labels} == {"operator", "test"}


def test_the_token_is_random_and_a_new_one_at_each_rendering_without_a_cluster(helm: Helm, plain: list[Json]) -> None:
    first = one(plain, "Secret", f"{GATEWAY}-token")["data"]["token"]
    second = one(helm.render(), "Secret", f"{GATEWAY}-token")["data"]["token"]
    assert first != second
    assert len(first) == 64


def test_every_argument_is_one_that_the_programs_take(full: list[Json]) -> None:
    from click.testing import CliRunner

    from autoglm_operator.__main__ import main as operator
    from autoglm_serving.gateway.commands import gateway

    for name, program, skip in ((OPERATOR, operator, 0), (GATEWAY, gateway, 1)):
        arguments = at(one(full, "Deployment", name), "spec.template.spec.containers.0.args")[skip:]
        told = CliRunner().invoke(program, [arguments[0], "--help"]).output
        for argument in arguments[1:]:
            assert f"{argument.split('=')[0]} " in told.replace(",", " "), argument


def test_the_dashboard_and_the_alerts_arrive_as_they_are_in_the_files(full: list[Json]) -> None:
    stored = json.loads(one(full, "ConfigMap", "autoglm-dashboard")["data"]["autoglm.json"])
    assert stored == json.loads((ROOT / "charts/autoglm/files/dashboard.json").read_text())
    rules = one(full, "PrometheusRule", "autoglm")["spec"]
    assert rules == yaml.safe_load((ROOT / "charts/autoglm/files/alerts.yaml").read_text())


def test_kuberay_comes_only_when_it_is_asked_for(helm: Helm) -> None:
    chart = helm.with_dependency()
    assert "ConfigMap/kuberay" not in named(helm.render(chart=chart))
    asked = helm.render({"kuberay-operator": {"enabled": True, "told": "more"}}, chart=chart)
    assert one(asked, "ConfigMap", "kuberay")["data"] == {"told": "more"}


def test_helm_finds_nothing_to_complain_about(helm: Helm) -> None:
    told = helm.run("lint", helm.chart, "--strict", "--quiet", values=EVERYTHING)
    assert "ERROR" not in told
    assert "WARNING" not in told
