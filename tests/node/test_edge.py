"""Two nodes, one of them at the edge. Its link is cut for minutes: it goes on answering, and nothing there is made anew."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from support.node.machine import Node
from support.node.release import RAY, SYSTEM, USERS, Release, Watch, screenshot

Json = dict[str, Any]

pytestmark = [pytest.mark.timeout(3600), pytest.mark.edge]

CLOUD, EDGE = "autoglm-node", "autoglm-edge"
CUT_S = 200.0
"""How long the link is cut at least."""
TAKEN_S = 60.0 + 30.0
"""After so long on a node that is NotReady Kubernetes has taken the pods that do not tolerate it (60 s), with a margin."""
_HOST = "kubernetes.io/hostname"
# A gateway at the edge and one elsewhere; the operator is not at the edge.
_APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": _HOST, "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}}}
        ]
    }
}
_FOR_EVER = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
    for key in ("unreachable", "not-ready")
]
_ASK = """
import json, sys, urllib.request
headers = {"content-type": "application/json"}
request = urllib.request.Request(sys.argv[1], data=sys.stdin.buffer.read(), headers=headers)
with urllib.request.urlopen(request, timeout=120) as answer:
    print(json.dumps({**{k.lower(): v for k, v in answer.headers.items()}, "usage": json.load(answer)["usage"]}))
"""


def gateway_of(release: Release, node: str) -> str:
    """Address of the gateway's pod on a node."""
    found = json.loads(release.api.kubectl("get", "pods", "-n", SYSTEM, "-o", "json"))["items"]
    component = "app.kubernetes.io/component"
    pods = [pod for pod in found if pod["metadata"]["labels"].get(component) == "gateway"]
    (address,) = [pod["status"]["podIP"] for pod in pods if pod["spec"]["nodeName"] == node]
    return f"http://{address}:8080/v1/chat/completions"


def ask_at(node: Node, url: str) -> Json:
    """The headers and the usage of the answer that somebody at this node gets."""
    body = json.dumps(screenshot()).encode()
    command = node.namespaces.inside(sys.executable, "-c", _ASK, url)
    done = subprocess.run(command, input=body, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer: Json = json.loads(done.stdout)
    return answer


def made(release: Release) -> Json:
    """Ray clusters and pods of the site as they were made: ids, and how often each container was started anew.

    A pod that is taken away is listed until its node has heard of it: `deletionTimestamp` tells.
    """
    found = json.loads(release.api.kubectl("get", "raycluster,pod", "-n", RAY, "-o", "json"))["items"]
    return {
        one["metadata"]["name"]: (
            one["metadata"]["uid"],
            one["metadata"].get("deletionTimestamp"),
            {each["name"]: each["restartCount"] for each in one["status"].get("containerStatuses") or ()},
        )
        for one in found
    }


def is_node_ready(release: Release, node: str) -> bool:
    conditions = release.api.get("node", node)["status"]["conditions"]
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def test_an_edge_site_answers_while_its_link_is_cut_and_nothing_is_made_anew(edge_release: Release) -> None:
    release, watch = edge_release, Watch()
    edge = next(node for node in release.nodes if node.name == EDGE)
    gateway = {"replicas": 2, "pods": {"affinity": _APART, "tolerations": _FOR_EVER}}
    release.install({"operator": {"pods": {"nodeSelector": {_HOST: CLOUD}}}, "gateway": gateway})
    watch.stage("helm install on two nodes")
    release.apply_site("edge", nodeSelector={_HOST: EDGE})
    release.apply_quickstart()
    release.wait_ready()
    watch.stage("apply to Ready at the edge")
    url = gateway_of(release, EDGE)
    first = ask_at(edge, url)
    assert first["usage"]["prompt_tokens"] > 100
    before = made(release)
    assert len(before) == 3, "a Ray cluster, its head and a worker"
    watch.stage("a screenshot is answered at the edge")

    edge.namespaces.cut()
    answered, not_ready_after, since = 0, 0.0, time.monotonic()
    while not not_ready_after or time.monotonic() - since < max(CUT_S, not_ready_after + TAKEN_S):
        assert ask_at(edge, url)["x-autoglm-revision"] == first["x-autoglm-revision"]
        answered += 1
        if not not_ready_after and not is_node_ready(release, EDGE):
            not_ready_after = time.monotonic() - since
        assert time.monotonic() - since < 10 * CUT_S, "Kubernetes never said that the node is NotReady"
    assert made(release) == before, "Kubernetes takes nothing there away"
    assert not release.is_ready(), "the operator hears nothing from a gateway and must not call that Ready"
    print(
        f"cut for {time.monotonic() - since:.0f} s: {answered} of {answered} answered at the edge;"
        f" NotReady after {not_ready_after:.0f} s; {release.autoglm('status', 'quickstart')}"
    )
    watch.stage("the link is cut, and the edge answers")

    edge.namespaces.mend()
    release.wait(lambda: is_node_ready(release, EDGE), "the node is Ready again")
    release.wait_ready()
    assert ask_at(edge, url)["x-autoglm-revision"] == first["x-autoglm-revision"]
    assert made(release) == before
    watch.stage("the link is back, and nothing was made anew")
    release.api.kubectl("delete", "agd", "quickstart", "-n", USERS, "--timeout=300s", timeout=360)
