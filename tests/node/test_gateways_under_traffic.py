"""Gateways on a real node that come and go while requests go on: by the chart's autoscaler and by evictions. None is lost."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.kubernetes import KubectlFailed
from support.node import traffic
from support.node.measuring import measured
from support.node.release import RAY, SYSTEM, Release, Watch, screenshot

Json = dict[str, Any]

pytestmark = [pytest.mark.extras, pytest.mark.timeout(3000, func_only=True)]

NAME = "autoglm-gateway"
_GATEWAY = "app.kubernetes.io/component=gateway"
VALUES: Json = {
    "gateway": {
        "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 3},
        "resources": {"requests": {"cpu": "200m", "memory": "128Mi"}},
    }
}
# The chart waits five minutes before it takes one away; what happens then is the same.
_AT_ONCE = {"scaleDown": {"stabilizationWindowSeconds": 0}}
_NEVER = 1000
"""Percent of the requested processor time that no gateway here gets to use."""
_APART_S = 30.0


def autoscaler(release: Release) -> Json:
    return release.api.get("hpa", NAME, SYSTEM)


def used(release: Release) -> int | None:
    """Percent of the requested processor time that gateways use, as the autoscaler has read it."""
    for metric in autoscaler(release)["status"].get("currentMetrics") or ():
        found = (metric.get("resource") or {}).get("current") or {}
        if "averageUtilization" in found:
            return int(found["averageUtilization"])
    return None


def aim(release: Release, percent: int) -> None:
    """What the autoscaler aims at. How much gateways can use depends on what else the machine does, so it is measured first."""
    target = {"type": "Utilization", "averageUtilization": percent}
    metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    patch = json.dumps({"spec": {"behavior": _AT_ONCE, "metrics": metrics}})
    release.api.kubectl("patch", "hpa", NAME, "-n", SYSTEM, "--type=merge", "-p", patch)


def busy(release: Release, idle: int) -> int:
    """Percent that gateways use under load, once it does not rise any more and is well above what they use without."""
    seen = [(time.monotonic(), idle)]

    def is_steady() -> bool:
        (since, before), now = seen[-1], used(release) or 0
        if time.monotonic() - since < _APART_S:
            return False
        seen.append((time.monotonic(), now))
        return now >= idle + 10 and now <= 1.2 * before

    release.wait(is_steady, "gateways are busy")
    return seen[-1][1]


def pods(release: Release, component: str, namespace: str = SYSTEM) -> tuple[list[str], list[str]]:
    """Names of pods that are there, those that end included, and of those that are ready."""
    found = json.loads(release.api.kubectl("get", "pods", "-n", namespace, "-l", component, "-o", "json"))["items"]
    ready = [
        pod["metadata"]["name"]
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]
        and ("Ready", "True") in [(one["type"], one["status"]) for one in pod["status"].get("conditions") or ()]
    ]
    return [pod["metadata"]["name"] for pod in found], ready


def gateways(release: Release) -> tuple[int, int]:
    """Gateway pods that are there, and those that are ready."""
    there, ready = pods(release, _GATEWAY)
    return len(there), len(ready)


def is_evicted(release: Release, name: str, namespace: str = SYSTEM) -> bool:
    """Ask for a pod to go, as `kubectl drain` does for each pod of a node; False where its disruption budget says no."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    try:
        release.api.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    except KubectlFailed as refused:
        if "disruption budget" not in str(refused):
            raise
        return False
    return True


def drain_gateways(release: Release) -> None:
    """Both gateways are told to go at once: the second one goes when another has taken the first one's place."""
    _, (first, second) = pods(release, _GATEWAY)
    assert is_evicted(release, first)
    assert not is_evicted(release, second), "the budget lets one go at a time"
    release.wait(lambda: is_evicted(release, second), "the second gateway may go")
    _, ready = pods(release, _GATEWAY)
    assert ready, "a gateway was ready when the second one was let go"
    release.wait(lambda: gateways(release) == (2, 2), "both have been replaced")
    assert not {first, second} & set(pods(release, _GATEWAY)[0])


def keep_the_only_replica(release: Release) -> None:
    """The only replica of the model is protected by the budget that the operator makes."""
    _, workers = pods(release, "ray.io/node-type=worker", RAY)
    assert len(workers) == 1
    assert not is_evicted(release, workers[0], RAY)


def test_gateways_follow_their_load_and_go_by_their_budget_and_no_request_is_lost(
    release: Release, tmp_path: Path
) -> None:
    if not release.nodes:
        pytest.skip("what measures pods is started for a node made here: unset KUBECONFIG")
    (node,), watch = release.nodes, Watch()
    with measured(release.api, node, tmp_path):
        watch.stage("metrics-server tells what the node uses")
        release.install(VALUES)
        release.wait(lambda: gateways(release) == (2, 2), "the autoscaler has raised one gateway to the fewest")
        aim(release, _NEVER)
        release.apply_site()
        release.apply_quickstart(rollout={"maxUnavailable": 0})
        release.wait_ready()
        release.wait(lambda: used(release) is not None, "the autoscaler has read what gateways use")
        idle = used(release) or 0
        watch.stage(f"Ready behind two gateways, which use {idle} % of what they ask for")

        address = release.api.get("service", NAME, SYSTEM)["spec"]["clusterIP"]
        with traffic.running(node.namespaces.inside(), f"http://{address}", screenshot(), tmp_path) as sent:
            most = busy(release, idle)
            aim(release, 2 * most // 3)
            release.wait(lambda: gateways(release) == (3, 3), "a third gateway serves")
            watch.stage(f"2 -> 3 gateways at {most} %, where {2 * most // 3} % are aimed at")
            sent.ease()
            release.wait(lambda: gateways(release) == (2, 2), "the third gateway has gone")
            watch.stage(f"3 -> 2 gateways at {used(release)} %")
            drain_gateways(release)
            keep_the_only_replica(release)
            watch.stage("both gateways were evicted, one after the other, and the only replica was not")
        print(f"{sent.pictures} pictures and {sent.questions} questions were answered, {len(sent.lost)} were lost")
        assert sent.lost == []
        assert sent.pictures > 0
        assert sent.questions > 0
