"""What `autoglm up` takes from a file, what it refuses, and what it shows: no process is started here."""

import base64
import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from autoglm_operator.local import sample, show
from autoglm_operator.local.manifest import InvalidManifest, read
from autoglm_operator.local.planning import as_json, as_text, plans
from autoglm_operator.store import DEPLOYMENT, SITE, ObjectKey
from autoglm_serving.images import read_size
from support import manifests

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = ObjectKey(DEPLOYMENT, "default", "phones")


def text(*documents: Any) -> str:
    return yaml.safe_dump_all(documents)


def problems(source: str) -> tuple[str, ...]:
    with pytest.raises(InvalidManifest) as caught:
        read(source)
    return caught.value.problems


def test_a_deployment_gets_the_default_namespace() -> None:
    assert list(read(text(manifests.deployment())).objects) == [KEY]


def test_a_status_in_the_file_is_not_believed() -> None:
    raw = {**manifests.deployment(), "status": {"replicas": 7}}
    assert "status" not in read(text(raw)).objects[KEY]


def test_sites_and_secrets_come_from_the_file() -> None:
    metadata = {"name": "ray", "namespace": "autoglm"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": "t"}}
    encoded = {**secret, "stringData": None, "data": {"other": base64.b64encode(b"u").decode()}}
    found = read(text(secret, encoded, manifests.site(), manifests.deployment()))
    assert found.has_sites
    assert found.secrets == {("autoglm", "ray", "token"): "t", ("autoglm", "ray", "other"): "u"}


def test_all_problems_are_told_at_once_with_their_fields() -> None:
    bad = copy.deepcopy(manifests.deployment())
    bad["spec"]["replicas"] = -1
    bad["spec"]["colour"] = "red"
    found = problems(text(bad))
    assert any("phones: spec.replicas: should be greater than or equal to 0" in line for line in found)
    assert any('unknown field "spec.colour"' in line for line in found)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a: [", "is not YAML"),
        ("[" * 5000, "is"),
        ("", "has no AutoGLMDeployment"),
        ("- 1", "document 1: is not a Kubernetes object"),
        ("metadata: 3", "document 1: is not a Kubernetes object"),
        ("apiVersion: v1\nkind: Pod", "v1/Pod does not run here"),
        ("apiVersion: serving.autoglm.dev/v2\nkind: AutoGLMDeployment", "serving.autoglm.dev/v2/AutoGLMDeployment"),
        (text(manifests.deployment(), manifests.deployment()), "is there twice"),
        (text(manifests.deployment(sites={"names": ["region-1"]})), "remove spec.sites"),
        (text(manifests.deployment(sites={"selector": {"matchLabels": {"a": "b"}}})), "remove spec.sites"),
        ("#" * (1024 * 1024 + 1), "larger than 1024 KiB"),
        (text({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "%%"}}), "not base64"),
    ],
    ids=range(12),
)
def test_what_cannot_be_used_is_refused_with_words(source: str, words: str) -> None:
    assert any(words in line for line in problems(source))


def test_the_plan_is_the_controllers_first_step_and_tells_of_a_taken_name() -> None:
    older, newer = manifests.deployment("older"), manifests.deployment("newer")
    older["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    newer["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    first, second = as_json(plans(read(text(older, newer)), NOW))
    assert [change["application"]["name"] for change in first["put"]] == ["default.older"]
    assert [change["site"] for change in first["put"]] == ["local"]
    assert "ModelNameTaken" in {one["reason"] for one in second["conditions"]}


def test_the_plan_as_text_is_yaml_below_a_headline() -> None:
    lines = as_text(plans(read(text(manifests.deployment())), NOW)).splitlines()
    assert lines[1] == "  put application default.phones on site local:"
    assert yaml.safe_load("\n".join(lines[2:]))["import_path"] == "autoglm_serving.app:build"


def stored(ready: str, generation: int = 1, observed: int = 1) -> dict[str, Any]:
    raw = manifests.deployment()
    raw["metadata"] |= {"namespace": "default", "generation": generation, "creationTimestamp": "2026-01-02T03:03:05Z"}
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Deploying",
        "message": "soon",
        "observedGeneration": observed,
    }
    return {**raw, "status": {"conditions": [{**condition, "lastTransitionTime": "2026-01-02T03:04:00Z"}]}}


def test_ready_counts_only_for_the_present_generation() -> None:
    assert show.is_ready(stored("True"))
    assert not show.is_ready(stored("True", generation=2))
    assert not show.is_ready(stored("Unknown"))
    assert not show.is_ready(manifests.deployment() | {"metadata": {"name": "x"}})


def test_tables_have_one_row_for_each_object_and_survive_empty_statuses() -> None:
    bare = manifests.deployment("bare")
    bare["metadata"]["namespace"] = "default"
    objects = {KEY: stored("False"), ObjectKey(DEPLOYMENT, "default", "bare"): bare}
    lines = show.deployments(objects, NOW).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["default/phones", "False"], ["default/bare", "Unknown"]]
    assert "60s" in lines[1]
    site = show.sites({ObjectKey(SITE, "", "region-1"): manifests.site()}, NOW).splitlines()
    assert site[1].split()[:3] == ["region-1", "Unknown", "cloud"]


def test_explain_shows_reasons_sites_and_events() -> None:
    raw = stored("False")
    raw["status"]["sites"] = [{"name": "edge", "state": "Deploying", "ready": 0, "desired": 2}]
    event = {"time": (NOW - timedelta(hours=3)).isoformat(), "type": "Normal", "reason": "Deploying", "message": "m"}
    words = show.explain(raw, [event], NOW)
    assert words.splitlines()[0] == "AutoGLMDeployment default/phones: Deploying: soon"
    assert "0/2" in words
    assert "3h" in words


def test_explain_shows_how_many_replicas_the_load_asked_for_and_why() -> None:
    raw = stored("True")
    at = (NOW - timedelta(minutes=5)).isoformat()
    row = {"name": "edge", "desired": 3, "reason": "LoadRose", "message": "11 under way", "since": at, "took": "42s"}
    made = {"at": at, "site": "edge", "before": 1, "after": 3, "reason": "LoadRose", "message": "11 under way"}
    raw["status"]["scaling"] = {"sites": [row], "decisions": [made]}
    lines = [line.split() for line in show.explain(raw, [], NOW).splitlines()]
    assert ["edge", "3", "LoadRose", "5m", "42s", "11", "under", "way"] in lines
    assert ["5m", "edge", "1", "->", "3", "LoadRose", "11", "under", "way"] in lines


def test_the_stand_in_for_a_missing_screenshot_is_a_picture_of_a_phones_size() -> None:
    data = base64.b64encode(sample.plain_png(1080, 2400)).decode()
    size = read_size(f"data:image/png;base64,{data}")
    assert (size.width, size.height) == (1080, 2400)
