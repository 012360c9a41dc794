"""The chart against a real API server: every object in its true schema, and a release's life.

A dry run of the API server validates with the schemas, defaults and admission of the very version that runs, which a copy of
the schemas elsewhere can only follow.
"""

import copy
import json
from collections.abc import Iterator

import pytest
import yaml

from autoglm_operator import chart, crds
from support import manifests
from support.helm import EVERYTHING, Helm, HelmFailed, Json
from support.kubernetes import ControlPlane, KubectlFailed
from support.processes import wait_until

MONITORING = ("ServiceMonitor", "PrometheusRule")


def stand_in(kind: str) -> Json:
    """A definition of the Prometheus operator's kind that takes anything: only names and labels are checked."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower()}
    group = "monitoring.coreos.com"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    }


@pytest.fixture(scope="module")
def monitoring(api_server: ControlPlane) -> Iterator[None]:
    """The kinds of the Prometheus operator."""
    definitions = [stand_in(kind) for kind in MONITORING]
    api_server.apply(*definitions)
    for made in definitions:
        api_server.kubectl("wait", "--for=condition=Established", f"crd/{made['metadata']['name']}", "--timeout=60s")
    yield
    for made in definitions:
        api_server.kubectl("delete", "crd", made["metadata"]["name"])


@pytest.mark.usefixtures("monitoring")
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_api_server_takes_every_object(api_server: ControlPlane, helm: Helm, values: Json) -> None:
    namespace = api_server.new_namespace("dry-run")
    wait_until(lambda: api_server.exists("serviceaccount", "default", namespace), "pods can be made there")
    # The standard that the pods promise is the one that is enforced.
    standard = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    api_server.kubectl("label", "namespace", namespace, *standard)
    objects = helm.render(values)
    for entry in objects:
        if "namespace" in entry["metadata"]:
            entry["metadata"]["namespace"] = namespace
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    told = api_server.kubectl(*arguments, "-f", "-", stdin=yaml.safe_dump_all(objects), check=False)
    assert told.count("serverside-applied") == len(objects), told
    assert "would violate PodSecurity" not in told


@pytest.mark.usefixtures("monitoring")
def test_the_dry_run_refuses_a_field_that_does_not_exist(api_server: ControlPlane, helm: Helm) -> None:
    deployment = next(entry for entry in helm.render() if entry["kind"] == "Deployment")
    deployment["metadata"]["namespace"] = "default"
    deployment["spec"]["replica"] = 2
    arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict")
    with pytest.raises(KubectlFailed, match="replica"):
        api_server.kubectl(*arguments, "-f", "-", stdin=yaml.safe_dump(deployment))


def test_a_release_is_installed_upgraded_with_its_definitions_and_uninstalled_without_them(
    api_server: ControlPlane, helm: Helm
) -> None:
    namespace = api_server.new_namespace("release")
    where = ("--namespace", namespace)
    name = "autoglmdeployments.serving.autoglm.dev"
    token = ("get", "secret", "autoglm-gateway-token", "-n", namespace, "-o", "jsonpath={.data.token}")
    upgrade = ("upgrade", "--install", "autoglm", helm.chart, *where)
    try:
        # The definitions are there from `kubectl apply`, and nobody's release: Helm takes them only when told to.
        with pytest.raises(HelmFailed, match="invalid ownership metadata"):
            helm.run(*upgrade, kubeconfig=api_server.kubeconfig)
        helm.run("uninstall", "autoglm", *where, "--ignore-not-found", kubeconfig=api_server.kubeconfig)
        told = helm.run(*upgrade, "--take-ownership", kubeconfig=api_server.kubeconfig)
        assert "It can read no Secret yet" in told
        first = api_server.kubectl(*token)

        # An upgrade brings a definition that has changed.
        definition = helm.chart / "templates/crds" / f"{name}.yaml"
        old = definition.read_text()
        description = str(crds.definitions()[0]["spec"]["versions"][0]["additionalPrinterColumns"][0]["description"])
        assert description in old
        definition.write_text(old.replace(description, "A column of the next version.", 1))
        try:
            secrets = {"operator": {"siteSecrets": [{"namespace": namespace, "names": ["ray"]}]}}
            told = helm.run(*upgrade, kubeconfig=api_server.kubeconfig, values=secrets)
        finally:
            definition.write_text(old)
        columns = api_server.get("crd", name)["spec"]["versions"][0]["additionalPrinterColumns"]
        assert columns[0]["description"] == "A column of the next version."
        assert f"{namespace}/(ray)" in told
        assert api_server.kubectl(*token) == first, "an upgrade keeps the token"

        # What people made outlives the release.
        made = manifests.deployment("kept")
        made["metadata"]["namespace"] = namespace
        api_server.apply(made)
        helm.run("uninstall", "autoglm", *where, kubeconfig=api_server.kubeconfig)
        assert api_server.exists("agd", "kept", namespace)
        left = json.loads(
            api_server.kubectl("get", "deploy,svc,role,rolebinding,pdb,hpa,netpol,secret", *_all(namespace))
        )
        assert left["items"] == []
        roles = api_server.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
        assert f"{namespace}-autoglm" not in roles
    finally:
        api_server.kubectl("delete", "agd", "--all", "-n", namespace)
        helm.run("uninstall", "autoglm", *where, "--ignore-not-found", kubeconfig=api_server.kubeconfig)
        api_server.apply_crds()


def _all(namespace: str) -> tuple[str, ...]:
    return "-n", namespace, "-o", "json", "-l", "app.kubernetes.io/instance=autoglm"


def test_a_definition_of_the_chart_is_the_one_of_crds(helm: Helm) -> None:
    rendered = {
        entry["metadata"]["name"]: entry for entry in helm.render() if entry["kind"] == "CustomResourceDefinition"
    }
    for crd in copy.deepcopy(crds.definitions()):
        assert rendered[crd["metadata"]["name"]]["spec"] == crd["spec"]
    assert chart.FOLDER == "charts/autoglm"
