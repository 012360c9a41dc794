"""The objects of a deployment at a site with KubeRay, as golden files. `UPDATE_GOLDEN=1 pytest ...` writes them anew."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoglm_operator.kuberay import names, pods
from autoglm_operator.kuberay.manifests import Wanted, ray_service_of
from autoglm_operator.state import Observed
from autoglm_operator.subject import Subject
from support import fleet, kube

Json = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "golden-kuberay"

SPLIT: Json = {"parallelism": {"tensor": 4}}
CASES: dict[str, tuple[Json, Json]] = {
    "cpu": ({"replicas": 2}, {}),
    "gpu-tensor-parallel": (
        {"engine": SPLIT, "worker": {"accelerator": {"type": "gpu"}, "resources": {"cpu": "6500m", "memory": "64Gi"}}},
        {
            "nodeSelector": {"node.kubernetes.io/instance-type": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "serving",
            "topologySpread": [{"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "imagePullSecrets": ["registry"],
            "tokenSecret": "ray-token",
            "gcsFaultTolerance": {"claim": "gcs"},
        },
    ),
    "variant": (
        {
            "model": {
                "name": "autoglm-phone-9b",
                "uri": "builtin://autoglm-tiny",
                "variants": [{"name": "int8", "quantization": "int8-weight", "sites": {"names": ["pods"]}}],
            }
        },
        {},
    ),
    "npu-tensor-parallel": (
        {
            "engine": SPLIT,
            "worker": {
                "accelerator": {"type": "npu"},
                "template": {
                    "spec": {
                        "runtimeClassName": "ascend",
                        "containers": [
                            {
                                "name": "worker",
                                "volumeMounts": [{"name": "driver", "mountPath": "/usr/local/Ascend/driver"}],
                            }
                        ],
                        "volumes": [{"name": "driver", "hostPath": {"path": "/usr/local/Ascend/driver"}}],
                    }
                },
            },
            "replicas": 2,
            "rollout": {"maxSurge": 2, "maxUnavailable": 1},
        },
        {"gcsFaultTolerance": {"redisAddress": "redis:6379", "redisPassword": {"name": "redis"}}},
    ),
}


def made(case: str) -> dict[str, Json]:
    spec, backend = CASES[case]
    return {one["kind"]: one for one in kube.manifests(fleet.deployment(spec), "pods", backend)}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_objects_are_the_golden_ones(case: str) -> None:
    path, found = FOLDER / f"{case}.yaml", list(made(case).values())
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump_all(found, sort_keys=False, width=120))
    assert found == list(yaml.safe_load_all(path.read_text()))


def worker_group(case: str) -> Json:
    groups: list[Json] = made(case)["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert len(groups) == 1
    return groups[0]


def test_a_replica_over_four_gpus_is_one_pod_with_all_four() -> None:
    group = worker_group("gpu-tensor-parallel")
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert group["rayStartParams"] == {"num-cpus": "7", "num-gpus": "4"}
    assert group["minReplicas"] == group["maxReplicas"] == group["replicas"] == 1


def test_an_npu_worker_offers_to_ray_what_a_replica_asks_of_it() -> None:
    group, spec = worker_group("npu-tensor-parallel"), CASES["npu-tensor-parallel"][0]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["huawei.com/Ascend910"] == "4"
    offered = json.loads(group["rayStartParams"]["resources"].strip("'"))
    application = fleet.wanted(fleet.deployment(spec)).application
    assert offered == application["args"]["worker"]["custom"] == {"NPU": 4.0}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_head_runs_no_replica_and_every_cluster_asks_for_a_token(case: str) -> None:
    cluster = made(case)["RayService"]["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token"


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_container_keeps_to_the_restricted_pod_security(case: str) -> None:
    cluster = made(case)["RayService"]["spec"]["rayClusterConfig"]
    for template in (cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_serve_document_carries_the_application_of_every_back_end(case: str) -> None:
    document = yaml.safe_load(made(case)["RayService"]["spec"]["serveConfigV2"])
    observed = Observed(sites=(kube.view("pods"),))
    wanted = Subject(fleet.deployment(CASES[case][0]), observed, fleet.NOW).wanted_at("pods").application
    assert document["applications"] == [json.loads(json.dumps(wanted))]


def test_a_second_cluster_is_allowed_only_where_all_of_its_replicas_fit_in() -> None:
    def strategy(replicas: int, surge: int) -> str:
        spec = {"replicas": replicas, "rollout": {"maxSurge": surge}}
        service = kube.manifests(fleet.deployment(spec), "pods")[0]
        return str(service["spec"]["upgradeStrategy"]["type"])

    assert [strategy(1, 0), strategy(2, 1), strategy(2, 2), strategy(2, 5)] == [
        "None",
        "None",
        "NewCluster",
        "NewCluster",
    ]


def test_the_budget_of_disruptions_is_what_may_be_unavailable() -> None:
    def available(replicas: int, unavailable: int) -> int:
        spec = {"replicas": replicas, "rollout": {"maxUnavailable": unavailable}}
        made = {one["kind"]: one for one in kube.manifests(fleet.deployment(spec), "pods")}
        return int(made["PodDisruptionBudget"]["spec"]["minAvailable"])

    assert [available(1, 1), available(3, 1), available(2, 0), available(1, 9)] == [0, 2, 2, 0]


def test_children_need_no_right_to_the_finalizers_of_their_rayservice() -> None:
    children = kube.manifests(fleet.deployment({}), "pods")[1:]
    owners = [owner for child in children for owner in child["metadata"]["ownerReferences"]]
    assert len(owners) == 2
    assert not any("blockOwnerDeletion" in owner for owner in owners), "some clusters then ask for that right"


def hash_of(spec: Json, backend: Json | None = None) -> str:
    service = kube.manifests(fleet.deployment(spec), "pods", backend)[0]
    return str(service["metadata"]["annotations"][names.CLUSTER_HASH])


def test_what_serve_changes_in_place_asks_for_no_other_pods() -> None:
    before = hash_of({})
    assert hash_of({"replicas": 5}) == before
    assert hash_of({"model": {"name": "other", "uri": "file:///models/other"}}) == before
    assert hash_of({"engine": {"maxModelLen": 4096, "options": {"dtype": "float32"}}}) == before
    assert hash_of({"limits": {"maxQueue": 8}, "routing": {"retries": 3}}) == before
    assert hash_of({}, {"serveAddresses": ["http://ingress.example:80"]}) == before


@pytest.mark.parametrize(
    ("spec", "backend"),
    [
        ({}, {"image": "registry.example/autoglm-serving:2"}),
        ({"worker": {"accelerator": {"type": "gpu"}}}, {}),
        ({"worker": {"resources": {"memory": "64Gi"}}}, {}),
        ({"worker": {"template": {"spec": {"runtimeClassName": "nvidia"}}}}, {}),
        ({}, {"nodeSelector": {"pool": "phones"}}),
        ({}, {"tolerations": [{"operator": "Exists"}]}),
    ],
    ids=["image", "accelerator", "memory", "template", "nodes", "tolerations"],
)
def test_what_shapes_pods_asks_for_other_ones(spec: Json, backend: Json) -> None:
    """KubeRay compares pods without their tolerations: the hash on them makes it see such a change too."""
    assert hash_of(spec, backend) != hash_of({})
    service = kube.manifests(fleet.deployment(spec), "pods", backend)[0]
    template = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]
    assert template["metadata"]["annotations"][names.CLUSTER_HASH] == hash_of(spec, backend)


def tier_hash(**tier: str) -> str:
    site = fleet.site("pods", {**tier, "backend": {"kubeRay": kube.BACKEND}})
    return Wanted(fleet.deployment({}), site, {"name": "team.phones", "deployments": []}, 1).cluster_hash


def test_another_tier_asks_for_other_pods_and_that_of_the_cloud_is_what_it_was() -> None:
    """Tolerations come with the tier. Not in the hash, they would be written without a plan, and be told as no change."""
    assert tier_hash(tier="edge") != tier_hash(tier="cloud")
    assert tier_hash(tier="cloud") == tier_hash() == hash_of({}) == "739270bc66"


def test_a_head_is_not_waited_for_as_long_as_a_worker_that_answers_requests() -> None:
    """Ray's autoscaler hears no SIGTERM: all that is given to the head passes before a Ray cluster is gone or replaced."""
    cluster = made("cpu")["RayService"]["spec"]["rayClusterConfig"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    head, worker = (group["template"]["spec"]["terminationGracePeriodSeconds"] for group in groups)
    assert (head, worker) == (30, 150)


@pytest.mark.parametrize("tier", ["cloud", "edge"])
def test_pods_at_an_edge_site_outlive_a_cut_of_its_link_unless_the_user_says_otherwise(tier: str) -> None:
    """Kubernetes takes pods of a silent node away after five minutes, and ends them when the link is back."""
    own = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 60,
    }
    deployment = fleet.deployment({"worker": {"template": {"spec": {"tolerations": [own]}}}})
    backend = {"kubeRay": {**kube.BACKEND, "tolerations": [{"key": "phones", "operator": "Exists"}]}}
    site = fleet.site("pods", {"tier": tier, "backend": backend})
    application = {"name": "team.phones", "deployments": []}
    cluster = ray_service_of(Wanted(deployment, site, application, 1))["spec"]["rayClusterConfig"]

    def told(group: Json) -> dict[str, Any]:
        found = group["template"]["spec"]["tolerations"]
        return {one["key"]: one.get("tolerationSeconds", "for ever") for one in found}

    unreachable, not_ready = "node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"
    kept = {unreachable: "for ever", not_ready: "for ever"} if tier == "edge" else {}
    assert told(cluster["headGroupSpec"]) == {"phones": "for ever"} | kept
    assert told(cluster["workerGroupSpecs"][0]) == {"phones": "for ever"} | kept | {unreachable: 60}


def test_a_template_takes_no_label_away_that_other_objects_select_by() -> None:
    template = {"metadata": {"labels": {names.RAY_SERVICE: "stolen", "team": "phones"}}}
    service, *children = kube.manifests(fleet.deployment({"worker": {"template": template}}), "pods")
    found = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    assert found[names.RAY_SERVICE] == service["metadata"]["name"]
    assert found["team"] == "phones"
    assert [child["kind"] for child in children] == ["PodDisruptionBudget", "NetworkPolicy"]


@pytest.mark.parametrize(
    "application",
    ["team.phones", "team.phones.2", f"team.{'x' * 63}", "team.7phones", f"{'n' * 63}.a", "team.a-" + "b"],
)
def test_names_are_those_that_kuberay_takes(application: str) -> None:
    name = names.ray_service(application, "region-1")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47


def test_names_differ_by_namespace_name_revision_and_site() -> None:
    found = {
        names.ray_service(application, site)
        for application in ("a.phones", "b.phones", "a.phones.2", f"a.{'x' * 60}1", f"a.{'x' * 60}2")
        for site in ("one", "two")
    }
    assert len(found) == 10


def test_a_cpu_worker_has_no_accelerator() -> None:
    assert pods.accelerators(fleet.deployment()) == 0
    assert "num-gpus" not in worker_group("cpu")["rayStartParams"]


@pytest.mark.parametrize(
    ("worker", "bound"),
    [
        ({"resources": {"cpu": "500m"}}, 1),
        ({"resources": {"cpu": "400m"}}, 1),
        ({"resources": {"cpu": "600m"}}, None),
        ({"resources": {"cpu": 1}}, None),
        ({"resources": {"cpu": "1500m"}}, None),
        ({"resources": {"cpu": "500m"}, "accelerator": {"type": "gpu"}}, None),
    ],
)
def test_a_worker_never_has_room_for_a_second_replica(worker: Json, bound: int | None) -> None:
    service = kube.manifests(fleet.deployment({"worker": worker, "replicas": 2}), "pods")[0]
    (engine,) = json.loads(service["spec"]["serveConfigV2"])["applications"][0]["deployments"]
    assert engine.get("max_replicas_per_node") == bound
