"""The API server takes, refuses and shows the same as the models do."""

import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoglm_operator import crds
from autoglm_operator.api import (
    DeploymentSiteStatus,
    DeploymentStatus,
    InvalidResource,
    Problem,
    parse_deployment,
    parse_site,
)
from support.kubernetes import ControlPlane, KubectlFailed
from support.manifests import ACCEPTED, REFUSED, Accepted, Refused, deployment, manifest, site

pytestmark = pytest.mark.timeout(900)  # kubectl starts some fifty times, which is slow on a busy machine

ROOT = Path(__file__).resolve().parents[2]
GROUP_URL = "/apis/serving.autoglm.dev/v1alpha1"
Json = dict[str, Any]


def create(plane: ControlPlane, obj: Json) -> Json:
    """Ask the API server to make an object without keeping it; its answer, good or bad."""
    place = "/autoglmsites" if obj["kind"] == "AutoGLMSite" else "/namespaces/default/autoglmdeployments"
    request = urllib.request.Request(
        f"{plane.url}{GROUP_URL}{place}?dryRun=All&fieldValidation=Strict",
        data=json.dumps(obj).encode(),
        headers={"Authorization": f"Bearer {plane.token}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            read: Json = json.load(answer)
    except urllib.error.HTTPError as error:
        read = json.load(error)
    return read


def refusals(answer: Json) -> list[Problem]:
    """What the API server finds wrong, by field."""
    assert answer["kind"] == "Status", answer
    causes = answer.get("details", {}).get("causes", [])
    found = [Problem(cause["field"], cause["message"]) for cause in causes]
    found += [
        Problem(name, f'unknown field "{name}"') for name in re.findall(r'unknown field "([^"]+)"', answer["message"])
    ]
    return found


def problems_of(obj: Json) -> tuple[Problem, ...]:
    with pytest.raises(InvalidResource) as refused:
        parse_site(obj) if obj["kind"] == "AutoGLMSite" else parse_deployment(obj)
    return refused.value.problems


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.kind}: {case.name}")
def test_the_api_server_refuses_in_the_words_of_the_models(api_server: ControlPlane, case: Refused) -> None:
    obj = manifest(case)
    found = refusals(create(api_server, obj))
    assert any(case.field == problem.field and case.message in problem.message for problem in found), found
    for problem in problems_of(obj):
        assert any(problem.field == other.field and problem.message in other.message for other in found), (
            problem,
            found,
        )


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: f"{case.kind}: {case.name}")
def test_the_api_server_stores_what_the_models_read(api_server: ControlPlane, case: Accepted) -> None:
    obj = manifest(case)
    read = parse_site(obj) if obj["kind"] == "AutoGLMSite" else parse_deployment(obj)
    assert create(api_server, obj).get("spec") == read.spec.model_dump(mode="json", exclude_none=True)


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(-1, 1001),
        "suspend": st.booleans(),
        "deletionDeadline": st.from_regex(r"[0-9]{1,3}(\.[0-9])?(ms|s|m|h|d)?", fullmatch=True),
        "model": st.fixed_dictionaries(
            {
                "name": st.text(min_size=1, max_size=8),
                "uri": st.sampled_from(["builtin://autoglm-tiny", "hf://a/b", "hf://a"]),
            }
        ),
        "worker": st.fixed_dictionaries(
            {
                "resources": st.fixed_dictionaries(
                    {"cpu": st.integers(-1, 3) | st.from_regex(r"[0-9.]{1,4}m?", fullmatch=True)}
                )
            }
        ),
        "resolution": st.fixed_dictionaries({"minShortSide": st.integers(20, 1200), "alpha": st.floats(-0.5, 1.5)}),
        "sites": st.fixed_dictionaries({}, optional={"names": st.lists(st.sampled_from("abA"), max_size=3)}),
        "scaling": st.none() | st.just({"max": 2}),
    },
)


@given(spec=SPECS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_models_and_api_server_agree_on_made_up_specs(api_server: ControlPlane, spec: Json) -> None:
    obj = deployment() | {"spec": deployment()["spec"] | spec}
    answer = create(api_server, obj)
    if answer["kind"] == "Status":
        found = {problem.field for problem in refusals(answer)}
        assert {problem.field for problem in problems_of(obj)} & found, answer
    else:
        assert answer["spec"] == parse_deployment(obj).spec.model_dump(mode="json", exclude_none=True)


def test_the_definitions_are_established_and_structural(api_server: ControlPlane) -> None:
    for crd in crds.definitions():
        conditions = api_server.get("crd", crd["metadata"]["name"])["status"]["conditions"]
        states = {condition["type"]: condition["status"] for condition in conditions}
        assert (states["Established"], states["NamesAccepted"]) == ("True", "True")
        assert states.get("NonStructuralSchema", "False") == "False"


def test_kubectl_apply_shows_field_and_remedy(api_server: ControlPlane) -> None:
    with pytest.raises(KubectlFailed) as refused:
        api_server.apply(deployment(scaling={"max": 3, "forecast": {}}))
    assert "spec.scaling.forecast is not supported yet: remove it; replicas follow" in str(refused.value)
    with pytest.raises(KubectlFailed, match=r'unknown field "spec\.replica"'):
        api_server.apply(deployment(replica=3))


def objects(node: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Every path at which `kubectl explain` shows fields, with those fields."""
    node = node.get("items", node)
    if "properties" in node:
        yield path, node["properties"]
        for name, value in node["properties"].items():
            yield from objects(value, f"{path}.{name}")


def test_kubectl_explain_has_a_sentence_for_every_field(api_server: ControlPlane) -> None:
    seen = 0
    for crd in crds.definitions():
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            for path, fields in objects(schema[part], f"{crd['spec']['names']['singular']}.{part}"):
                shown = " ".join(api_server.kubectl("explain", path).split())
                for name, node in fields.items():
                    assert f"{name} <" in shown
                    assert node["description"] in shown, f"{path}.{name}"
                    seen += 1
    assert seen > 100


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: str(path.name))
def test_an_example_is_taken_by_kubectl(api_server: ControlPlane, path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    namespace = api_server.new_namespace()
    for obj in objects:
        if "namespace" in obj["metadata"]:
            obj["metadata"]["namespace"] = namespace
    shown = api_server.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(objects))
    assert shown.count("created (server dry run)") == len(objects)


STATUS = DeploymentStatus.model_validate(
    {
        "observedGeneration": 1,
        "revision": "5c1f",
        "replicas": 3,
        "readyReplicas": 2,
        "selector": "serving.autoglm.dev/deployment=phones",
        "ttft": {"p95": "820ms", "samples": 40, "gateways": 2, "observedAt": "2026-01-01T00:00:00Z"},
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Deploying",
                "message": "store-17: Ray Serve is starting the application",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "sites": [
            DeploymentSiteStatus(name="region-1", desired=2, ready=2, state="Ready", variant="base"),
            DeploymentSiteStatus(name="store-17", desired=2, ready=0, state="Deploying", variant="int8"),
        ],
    }
)


def set_status(plane: ControlPlane, namespace: str, name: str, status: Json) -> None:
    patch = json.dumps({"status": status})
    plane.kubectl("patch", "agd", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_kubectl_get_and_scale_work_on_a_deployment(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    obj = deployment()
    obj["metadata"]["namespace"] = namespace
    api_server.apply(obj)
    set_status(api_server, namespace, "phones", STATUS.model_dump(mode="json", exclude_none=True))

    shown = api_server.kubectl("get", "agd", "-n", namespace, "-o", "wide").splitlines()
    assert re.split(r"\s{2,}", shown[0].strip()) == [
        *("NAME", "READY", "REPLICAS", "SITES", "MODEL"),
        *("REASON", "REVISION", "VARIANTS", "TTFT P95", "MESSAGE", "AGE"),
    ]
    assert re.split(r"\s{2,}", shown[1].strip())[:-1] == [
        *("phones", "False", "2/4", "1/2", "autoglm-phone-9b", "Deploying", "5c1f"),
        *("base 1, int8 1", "820ms"),
        "store-17: Ray Serve is starting the application",
    ]
    api_server.kubectl("scale", "agd/phones", "-n", namespace, "--replicas=3", "--current-replicas=1")
    assert api_server.get("agd", "phones", namespace)["spec"]["replicas"] == 3
    scale = json.loads(api_server.kubectl("get", "agd", "phones", "-n", namespace, "--subresource=scale", "-o", "json"))
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 3, "selector": "serving.autoglm.dev/deployment=phones"}
    with pytest.raises(KubectlFailed, match="less than or equal to 1000"):
        api_server.kubectl("scale", "agd/phones", "-n", namespace, "--replicas=1001")


def test_a_stored_deployment_with_status_is_read_back(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    obj = deployment()
    obj["metadata"]["namespace"] = namespace
    api_server.apply(obj)
    set_status(api_server, namespace, "phones", STATUS.model_dump(mode="json", exclude_none=True))
    read = parse_deployment(api_server.get("agd", "phones", namespace))
    assert read.status == STATUS
    assert (read.metadata.namespace, read.metadata.generation) == (namespace, 1)
    assert read.metadata.uid
    assert read.metadata.creation_timestamp is not None


def test_kubectl_scale_is_told_that_the_load_decides(api_server: ControlPlane) -> None:
    """So are other autoscalers, which write the same subresource: there is one owner of the number."""
    namespace = api_server.new_namespace()
    obj = deployment(scaling={"max": 3})
    obj["metadata"]["namespace"] = namespace
    api_server.apply(obj)
    for number in ("2", "0"):
        with pytest.raises(KubectlFailed) as refused:
            api_server.kubectl("scale", "agd/phones", "-n", namespace, f"--replicas={number}")
        assert "must be absent with spec.scaling, which decides how many replicas there are" in str(refused.value)
    assert api_server.get("agd", "phones", namespace)["spec"]["replicas"] == 1


def test_the_api_server_refuses_reasons_outside_the_list(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    obj = deployment()
    obj["metadata"]["namespace"] = namespace
    api_server.apply(obj)
    status = STATUS.model_dump(mode="json", exclude_none=True)
    status["conditions"][0]["reason"] = "BecauseISaySo"
    with pytest.raises(KubectlFailed, match='Unsupported value: "BecauseISaySo"'):
        set_status(api_server, namespace, "phones", status)


def test_two_writers_can_own_different_conditions(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    obj = deployment()
    obj["metadata"]["namespace"] = namespace
    api_server.apply(obj)
    ready = STATUS.model_dump(mode="json", exclude_none=True)["conditions"][0]
    for manager, type_ in (("one", "Ready"), ("two", "Degraded")):
        written = {key: obj[key] for key in ("apiVersion", "kind", "metadata")}
        written["status"] = {"conditions": [ready | {"type": type_}], "sitesReady": "0/0", "replicasReady": "0/0"}
        server_side = ("--server-side", "--subresource=status", f"--field-manager={manager}")
        api_server.kubectl("apply", *server_side, "-f", "-", stdin=yaml.safe_dump(written))
    stored = api_server.get("agd", "phones", namespace)["status"]["conditions"]
    assert {condition["type"] for condition in stored} == {"Ready", "Degraded"}


def test_both_kinds_are_in_one_category(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    obj = deployment()
    obj["metadata"]["namespace"] = namespace
    place = site(f"site-of-{namespace}")
    api_server.apply(obj, place)
    try:
        shown = api_server.kubectl("get", "autoglm", "-n", namespace, "-o", "name").split()
        assert "autoglmdeployment.serving.autoglm.dev/phones" in shown
        assert f"autoglmsite.serving.autoglm.dev/{place['metadata']['name']}" in shown
    finally:
        api_server.kubectl("delete", "ags", place["metadata"]["name"])
