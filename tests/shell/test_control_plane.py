"""The tests' own control plane: it behaves as a cluster does, and its faults are real and repaired."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import cluster
from support.kubernetes import CRDS, ControlPlane, KubectlFailed
from support.processes import wait_until

TESTS = Path(__file__).resolve().parents[1]


def config_map(name: str, owner: dict[str, str] | None = None) -> dict[str, object]:
    metadata: dict[str, object] = {"name": name}
    if owner is not None:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", **owner}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": "value"}}


def create(plane: ControlPlane, namespace: str, *objects: dict[str, object]) -> None:
    for each in objects:
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(each))


def test_the_server_says_its_true_version(api_server: ControlPlane) -> None:
    version = json.loads(api_server.kubectl("version", "-o", "json"))["serverVersion"]
    assert version["major"] == "1"
    assert version["gitVersion"] != "v0.0.0"


def test_the_projects_resources_are_served_and_explained(api_server: ControlPlane) -> None:
    assert list(CRDS.glob("*.yaml")), "crds/ is empty"
    explained = api_server.kubectl("explain", "autoglmdeployments.spec")
    assert "<empty>" not in explained
    assert "DESCRIPTION" in explained


def test_children_go_with_their_owner(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    create(api_server, namespace, config_map("owner"))
    uid = api_server.get("configmap", "owner", namespace)["metadata"]["uid"]
    create(api_server, namespace, config_map("child", {"name": "owner", "uid": uid}))
    api_server.kubectl("delete", "configmap", "owner", "-n", namespace)
    wait_until(lambda: not api_server.exists("configmap", "child", namespace), "the child is garbage-collected")


def test_a_deleted_namespace_ends_with_everything_in_it(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    create(api_server, namespace, config_map("inside"))
    api_server.kubectl("delete", "namespace", namespace, "--timeout=180s", timeout=200)
    assert not api_server.exists("namespace", namespace)


def test_a_service_account_may_do_what_its_rules_say_and_nothing_else(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    create(api_server, namespace, config_map("seen"))
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    reader = api_server.service_account_kubeconfig(namespace, "reader", rules)
    assert "seen" in api_server.kubectl("get", "configmap", "seen", "-n", namespace, kubeconfig=reader)
    with pytest.raises(KubectlFailed, match=r"[Ff]orbidden"):
        api_server.kubectl("delete", "configmap", "seen", "-n", namespace, kubeconfig=reader)
    with pytest.raises(KubectlFailed, match=r"[Ff]orbidden"):
        api_server.kubectl("get", "secrets", "-n", namespace, kubeconfig=reader)


def test_a_wrong_token_is_refused(api_server: ControlPlane, tmp_path: Path) -> None:
    wrong = tmp_path / "kubeconfig"
    wrong.write_text(api_server.kubeconfig.read_text().replace(api_server.token, "admin-wrong"))
    answer = api_server.kubectl("get", "namespaces", kubeconfig=wrong, check=False)
    assert "logged in" in answer or "Unauthorized" in answer


@pytest.mark.faults
def test_objects_survive_a_killed_api_server(api_server: ControlPlane) -> None:
    namespace = api_server.new_namespace()
    create(api_server, namespace, config_map("kept"))
    before = api_server.apiserver.pid
    api_server.kill_apiserver()
    with pytest.raises(KubectlFailed):
        api_server.kubectl("get", "configmap", "kept", "-n", namespace)
    api_server.restart_apiserver()
    assert api_server.apiserver.pid != before
    assert api_server.exists("configmap", "kept", namespace)


@pytest.mark.faults
def test_whatever_a_test_breaks_is_healed(api_server: ControlPlane) -> None:
    api_server.controller_manager.kill()
    api_server.etcd.pause()
    api_server.kill_apiserver()
    api_server.heal()
    assert api_server.controller_manager.running
    assert api_server.new_namespace()


def test_a_kept_cluster_outlives_its_starter_until_it_is_taken_down(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    script = "import sys; from pathlib import Path; from support import cluster; cluster.up(Path(sys.argv[1]))"
    started = subprocess.run(
        [sys.executable, "-c", script, directory],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    try:
        kubeconfig = Path(started.stdout.strip())
        assert kubeconfig == directory / "kubeconfig"
        pids = cluster.running(directory)
        assert len(pids) == 3
        assert "kube-system" in ControlPlane(directory).kubectl("get", "namespaces")
    finally:
        cluster.down(directory)
    assert not cluster.running(directory)
    assert not directory.exists()
    assert [cluster.started_at(pid) for pid in pids] == [None] * 3
