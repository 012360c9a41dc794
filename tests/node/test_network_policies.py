"""The chart's and the operator's NetworkPolicies on a real node that enforces them: who reaches what, and that all goes on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from support.node.cluster import image
from support.node.enforcing import enforced
from support.node.release import RAY, SITE, SYSTEM, USERS, Release, Watch, screenshot

pytestmark = [pytest.mark.extras, pytest.mark.timeout(3000, func_only=True)]

STRANGERS = "strangers"
_MAY_ASK = {"use": "autoglm"}
# From inside a pod: which of these addresses take a connection.
_REACH = """
import json, socket, sys
def takes(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
print(json.dumps([address for address in sys.argv[1:] if takes(address)]))
"""
_WAIT = "import signal; signal.pause()"


@contextmanager
def somebody(release: Release, namespace: str) -> Iterator[None]:
    """A pod of somebody else in a namespace."""
    command = ["/opt/autoglm/bin/python", "-c", _WAIT]
    container = {
        "name": "main",
        "image": image("operator"),
        "command": command,
        "securityContext": {"runAsNonRoot": True},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "somebody", "namespace": namespace},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    release.api.kubectl("create", "-f", "-", stdin=yaml.safe_dump(pod))
    release.api.kubectl("wait", "pod/somebody", "-n", namespace, "--for=condition=Ready", "--timeout=300s", timeout=360)
    try:
        yield
    finally:
        release.api.kubectl("delete", "pod", "somebody", "-n", namespace, "--timeout=60s", check=False)


def reached(release: Release, namespace: str, names: dict[str, str]) -> set[str]:
    """Which of these, by name, a pod in the namespace reaches."""
    command = ("exec", "somebody", "-n", namespace, "--", "/opt/autoglm/bin/python", "-c", _REACH, *names.values())
    found = json.loads(release.api.kubectl(*command))
    return {name for name, address in names.items() if address in found}


def addresses(release: Release) -> dict[str, str]:
    """Ports of gateway, operator and Ray's head, by what they are for."""
    found: dict[str, str] = {}
    for name, namespace, selector, ports in (
        ("gateway", SYSTEM, "app.kubernetes.io/component=gateway", {"api": 8080, "admin": 9901}),
        ("operator", SYSTEM, "app.kubernetes.io/component=operator", {"metrics": 9090}),
        ("ray", RAY, "ray.io/node-type=head", {"serve": 8000, "dashboard": 8265, "control": 6379}),
    ):
        pods = json.loads(release.api.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json"))["items"]
        found |= {f"{name} {use}": f"{pods[0]['status']['podIP']}:{port}" for use, port in ports.items()}
    return found


def test_policies_keep_strangers_out_and_everything_goes_on(release: Release, tmp_path: Path) -> None:
    if not release.nodes:
        pytest.skip("what enforces policies is started for a node made here: unset KUBECONFIG")
    (node,), watch = release.nodes, Watch()
    server = yaml.safe_load(release.api.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    release.api.kubectl("create", "namespace", STRANGERS)
    release.api.kubectl("label", "namespace", USERS, *(f"{key}={value}" for key, value in _MAY_ASK.items()))
    release.install(
        {
            "networkPolicy": {
                "clients": [{"namespaceSelector": {"matchLabels": _MAY_ASK}}],
                "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "apiServerPorts": [443, urlsplit(server).port],
            }
        }
    )
    release.apply_site()
    release.apply_quickstart()
    release.wait_ready()
    first = release.deployment()["status"]["revision"]
    watch.stage("Ready, with policies that nobody enforces")

    with somebody(release, USERS), somebody(release, STRANGERS):
        everything = addresses(release)
        assert reached(release, STRANGERS, everything) == set(everything), "without enforcement everything is open"
        with enforced(release.api, node, tmp_path):
            release.wait(
                lambda: reached(release, STRANGERS, everything) == {"ray serve"}, "strangers reach Serve alone"
            )
            assert reached(release, USERS, everything) == {"gateway api", "ray serve"}
            watch.stage("enforced: strangers are kept out, clients reach the gateway's API")

            # Everything that has to go on does: the operator changes the site, the gateway probes and answers.
            assert "Phase:          Succeeded" in release.helm("test", "autoglm")
            release.apply_quickstart(limits={"maxQueue": 7})
            release.wait(
                lambda: release.deployment()["status"]["revision"] != first and release.is_ready(),
                "revision 2 is Ready",
            )
            _, headers = release.ask(screenshot())
            assert headers["x-autoglm-site"] == SITE
            assert headers["x-autoglm-revision"] != first
            watch.stage("helm test, another revision and a screenshot under enforced policies")
