"""Merging a pod template, and telling drift."""

import copy
from typing import Any

import pytest

from autoglm_operator.kuberay.drift import drifted
from autoglm_operator.kuberay.merge import merged
from support import fleet, kube

BASE: dict[str, Any] = {
    "spec": {
        "containers": [{"name": "worker", "image": "a", "env": [{"name": "ONE", "value": "1"}]}],
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 150,
    }
}


@pytest.mark.parametrize(
    ("over", "path", "expected"),
    [
        ({"spec": {"terminationGracePeriodSeconds": 5}}, ("terminationGracePeriodSeconds",), 5),
        ({"spec": {"containers": [{"name": "worker", "image": "b"}]}}, ("containers", 0, "image"), "b"),
        (
            {"spec": {"containers": [{"name": "worker", "env": [{"name": "TWO", "value": "2"}]}]}},
            ("containers", 0, "env"),
            [{"name": "ONE", "value": "1"}, {"name": "TWO", "value": "2"}],
        ),
        ({"spec": {"containers": [{"name": "side", "image": "c"}]}}, ("containers", 1, "name"), "side"),
        ({"spec": {"hostNetwork": True}}, ("hostNetwork",), True),
        ({"spec": {"containers": []}}, ("containers", 0, "image"), "a"),
    ],
)
def test_a_template_is_merged(over: dict[str, Any], path: tuple[Any, ...], expected: Any) -> None:
    before = copy.deepcopy(BASE)
    found = merged(BASE, over)["spec"]
    for step in path:
        found = found[step]
    assert found == expected
    assert before == BASE, "the base stays as it is"


@pytest.mark.parametrize("over", [{}, {"spec": {}}, {"spec": {"containers": [{"name": "worker"}]}}])
def test_a_template_that_says_nothing_changes_nothing(over: dict[str, Any]) -> None:
    assert merged(BASE, over) == BASE


def test_lists_without_names_are_replaced() -> None:
    assert merged({"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}


def test_nothing_has_drifted_when_the_api_server_only_filled_in_defaults() -> None:
    wanted = kube.manifests(fleet.deployment(), "pods")
    stored = {one["kind"]: copy.deepcopy(one) for one in wanted}
    stored["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["numOfHosts"] = 1
    stored["NetworkPolicy"]["metadata"]["labels"]["added-by"] = "somebody"
    assert drifted(stored, wanted) == ()


def test_what_a_person_changed_or_took_away_has_drifted() -> None:
    wanted = kube.manifests(fleet.deployment(), "pods")
    stored = {one["kind"]: copy.deepcopy(one) for one in wanted}
    stored["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"].append(
        {"name": "side", "image": "x"}
    )
    stored["PodDisruptionBudget"]["spec"]["minAvailable"] = 7
    del stored["NetworkPolicy"]
    assert drifted(stored, wanted) == ("RayService", "PodDisruptionBudget", "NetworkPolicy")
