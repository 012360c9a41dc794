"""What parse takes and refuses, in which words."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoglm_operator.api import (
    API_VERSION,
    AutoGLMDeployment,
    AutoGLMSite,
    InvalidResource,
    Problem,
    parse_deployment,
    parse_deployment_status,
    parse_metadata,
    parse_site,
    parse_site_status,
)
from support.manifests import ACCEPTED, REFUSED, Accepted, Refused, deployment, manifest, site

CONDITION = {"type": "Ready", "status": "True", "reason": "Answering", "lastTransitionTime": "2026-01-01T00:00:00Z"}


Read = Callable[[Any], AutoGLMDeployment | AutoGLMSite]


def parse(obj: dict[str, Any]) -> AutoGLMDeployment | AutoGLMSite:
    return parse_site(obj) if obj["kind"] == "AutoGLMSite" else parse_deployment(obj)


def outcome(read: Read, obj: Any) -> tuple[AutoGLMDeployment | AutoGLMSite | None, tuple[Problem, ...]]:
    """What was read, or what is wrong."""
    try:
        return read(obj), ()
    except InvalidResource as invalid:
        return None, invalid.problems


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.kind}: {case.name}")
def test_a_bad_manifest_is_refused_with_the_field_and_the_remedy(case: Refused) -> None:
    with pytest.raises(InvalidResource) as refused:
        parse(manifest(case))
    problems = refused.value.problems
    assert {problem.field for problem in problems} == {case.field}
    assert any(case.message in problem.message for problem in problems), problems


def test_the_table_of_bad_manifests_is_as_long_as_promised() -> None:
    assert len(REFUSED) >= 50
    assert len({(case.kind, case.name) for case in REFUSED}) == len(REFUSED)
    assert len(ACCEPTED) >= 15


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: f"{case.kind}: {case.name}")
def test_a_good_manifest_is_read_and_survives_a_round_trip(case: Accepted) -> None:
    resource = parse(manifest(case))
    assert parse(resource.model_dump(mode="json", exclude_none=True)) == resource


def test_all_problems_are_told_at_once() -> None:
    bad = deployment(replicas=-1, suspend="no", engine={"name": "tgi"})
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(bad)
    assert [problem.field for problem in refused.value.problems] == [
        "spec.engine.name",
        "spec.replicas",
        "spec.suspend",
    ]
    assert "spec.replicas: should be greater than or equal to 0; spec.suspend: must be" in str(refused.value)


def test_all_broken_rules_of_one_object_are_told_at_once() -> None:
    accelerator = {"type": "cpu", "count": 2, "resourceName": "GPU"}
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(deployment(worker={"accelerator": accelerator}))
    assert [problem.field for problem in refused.value.problems] == [
        "spec.worker.accelerator.count",
        "spec.worker.accelerator.resourceName",
    ]


def test_null_is_the_same_as_absent() -> None:
    assert parse_deployment(deployment(replicas=None, scaling=None)) == parse_deployment(deployment())


def test_the_wrong_kind_is_refused() -> None:
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(site())
    assert Problem("kind", 'Unsupported value: "AutoGLMSite": supported values: "AutoGLMDeployment"') in (
        refused.value.problems
    )


@pytest.mark.parametrize("bad", [None, [], "text", 7, {"spec": object()}, {"spec": float("nan")}], ids=repr)
def test_what_is_not_an_object_of_json_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidResource):
        parse_deployment(bad)


def test_nesting_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"spec": deep}
    with pytest.raises(InvalidResource):
        parse_deployment(deep)


def test_metadata_of_an_invalid_object_is_still_read() -> None:
    bad = deployment("phones", replicas=-1)
    bad["metadata"] |= {
        "namespace": "lab",
        "uid": "7",
        "generation": 3,
        "finalizers": ["serving.autoglm.dev/applications"],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
    }
    metadata = parse_metadata(bad)
    assert (metadata.namespace, metadata.uid, metadata.generation) == ("lab", "7", 3)
    assert metadata.deletion_timestamp is not None
    assert metadata.deletion_timestamp.year == 2026


def test_metadata_that_cannot_be_read_says_where() -> None:
    with pytest.raises(InvalidResource) as refused:
        parse_metadata({"metadata": {"namespace": "lab"}})
    assert refused.value.problems == (Problem("metadata.name", "Required value"),)
    with pytest.raises(InvalidResource) as refused:
        parse_metadata({})
    assert refused.value.problems == (Problem("metadata", "must be of type object"),)


def test_a_status_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    status = {"replicas": 2, "conditions": [CONDITION | {"severity": "high"}], "moods": ["good"]}
    read = parse_deployment(deployment() | {"status": status}).status
    assert read is not None
    assert (read.replicas, read.conditions[0].reason) == (2, "Answering")


def test_a_status_that_cannot_be_read_counts_as_absent() -> None:
    broken = {"conditions": [CONDITION | {"reason": "BecauseISaySo"}]}
    assert parse_deployment(deployment() | {"status": broken}).status is None
    assert parse_deployment_status({"status": broken}) is None
    assert parse_deployment_status({}) is None
    assert parse_site(site() | {"status": {"phase": "Gone"}}).status is None
    assert parse_site_status({"status": {"phase": "Gone"}}) is None


def test_the_columns_count_ready_sites_and_wanted_replicas() -> None:
    sites = [{"name": "a", "state": "Ready", "desired": 2, "ready": 2}, {"name": "b", "state": "Stale", "desired": 2}]
    status = parse_deployment_status({"status": {"readyReplicas": 2, "sites": sites}})
    assert status is not None
    dumped = status.model_dump(mode="json", exclude_none=True)
    assert (dumped["sitesReady"], dumped["replicasReady"]) == ("1/2", "2/4")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *(
            "model",
            "name",
            "uri",
            "engine",
            "worker",
            "sites",
            "names",
            "selector",
            "replicas",
            "resolution",
            "routing",
            "slo",
        ),
        *(
            "backend",
            "ray",
            "address",
            "serveAddresses",
            "tokenSecret",
            "link",
            "bandwidth",
            "rtt",
            "price",
            "cpu",
            "resources",
        ),
        *(
            "resources",
            "metadata",
            "spec",
            "status",
            "conditions",
            "scaling",
            "options",
            "timeout",
            "limits",
            "accelerator",
            "type",
        ),
    ]
)
LIKE_MANIFESTS = st.recursive(
    JSON_VALUES | st.sampled_from(["2s", "100Mbit", "gpu", "vllm", "builtin://autoglm-tiny", "http://a:1", 1, 0, -1]),
    lambda inner: st.dictionaries(FIELDS, inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=20,
)


@given(obj=JSON_VALUES | LIKE_MANIFESTS, part=st.sampled_from(["all", "spec", "metadata", "status"]))
@settings(max_examples=400, deadline=None)
def test_parse_raises_nothing_but_invalid_resource(obj: Any, part: str) -> None:
    for good, read in ((deployment(), parse_deployment), (site(), parse_site)):
        candidate = obj if part == "all" else good | {part: obj}
        resource, problems = outcome(read, candidate)
        assert all(problem.message for problem in problems)
        assert bool(problems) == (resource is None)
        if resource is not None:
            assert read(json.loads(resource.model_dump_json(exclude_none=True))) == resource


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(0, 1000),
        "suspend": st.booleans(),
        "resolution": st.fixed_dictionaries(
            {"minShortSide": st.integers(28, 500), "maxShortSide": st.integers(500, 4096)},
            optional={"mode": st.sampled_from(["fixed", "dynamic"]), "alpha": st.floats(0, 1)},
        ),
        "routing": st.fixed_dictionaries(
            {},
            optional={
                "policy": st.sampled_from(["leastWork", "roundRobin"]),
                "retries": st.integers(0, 5),
                "timeout": st.integers(1, 3600).map(lambda number: f"{number}s"),
            },
        ),
        "deletionDeadline": st.integers(0, 24).map(lambda number: f"{number}h"),
    },
)


@given(spec=SPECS)
@settings(max_examples=200, deadline=None)
def test_valid_specs_survive_a_round_trip(spec: dict[str, Any]) -> None:
    resource = parse_deployment(deployment(**spec))
    dumped = resource.model_dump(mode="json", exclude_none=True)
    assert dumped["apiVersion"] == API_VERSION
    assert parse_deployment(dumped) == resource
    for name, value in spec.items():
        if not isinstance(value, dict):
            assert dumped["spec"][name] == value
