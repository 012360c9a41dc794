"""What a site with KubeRay has and what is free there, from nodes and pods as the API server holds them."""

import asyncio
import weakref
from typing import Any, cast

import pytest
from typing_extensions import override

from autoglm_operator.api import KubeRayBackend
from autoglm_operator.backend import ClusterView
from autoglm_operator.fitting import fitting
from autoglm_operator.kube import Call, KubeApi, KubeRaySite
from autoglm_operator.kube.kuberay import FEW_NODES
from autoglm_operator.kuberay.capacity import capacity, head_need, taken, worker_need
from autoglm_operator.kuberay.quantity import number
from autoglm_operator.state import STILL_LISTED, Capacity
from support import fleet, kube, virtual_time
from support.kube import node, pod


def known(nodes: list[Any], pods: list[Any], of: KubeRayBackend) -> Capacity:
    """The capacity of a site that has nodes."""
    found = capacity(nodes, taken(pods, of), of)
    assert found is not None
    return found


def backend(**more: Any) -> KubeRayBackend:
    return KubeRayBackend.model_validate(kube.BACKEND | more)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("1500m", 1.5),
        ("16Gi", 16 * 2**30),
        ("1k", 1000),
        ("2e3", 2000),
        ("1E", 1e18),
        (".5", 0.5),
        ("100n", 1e-7),
    ],
)
def test_a_quantity_is_read_as_kubernetes_means_it(text: str, value: float) -> None:
    assert number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "a lot", "1Gb", "--1", "1e", None])
def test_what_is_no_quantity_reserves_nothing(text: object) -> None:
    assert number(text) == 0.0


def test_free_is_what_nodes_can_allocate_without_what_their_pods_request() -> None:
    nodes = [node("a", cpu="8", memory="32Gi", gpu=4), node("b", cpu="4", memory="16Gi")]
    pods = [
        pod("a", cpu="500m", memory="1Gi"),
        pod("a", cpu="2", memory="2Gi", gpu=3),
        pod("b", cpu="1", phase="Succeeded"),
        pod(None, cpu="4"),
        pod("elsewhere", cpu="4"),
    ]
    found = known(nodes, pods, backend())
    assert (found.total["CPU"], found.available["CPU"]) == (12.0, 9.5)
    assert (found.total["GPU"], found.available["GPU"]) == (4.0, 1.0)
    assert found.available["memory"] == (32 - 3 + 16) * 2**30
    assert [free["CPU"] for free in found.machines] == [5.5, 4.0]


def test_only_nodes_that_the_site_selects_and_whose_taints_it_tolerates_count() -> None:
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    nodes = [
        node("plain", cpu="8"),
        node("ours", cpu="4", labels={"pool": "phones"}),
        node("kept", cpu="2", labels={"pool": "phones"}, taints=[taint]),
        node("soft", cpu="1", labels={"pool": "phones"}, taints=[{**taint, "effect": "PreferNoSchedule"}]),
    ]
    assert known(nodes, [], backend(nodeSelector={"pool": "phones"})).total == {"CPU": 5.0, "memory": 2 * 2**30}
    for toleration in ({"key": "gpu", "value": "yes"}, {"key": "gpu", "operator": "Exists"}, {"operator": "Exists"}):
        told = known(nodes, [], backend(nodeSelector={"pool": "phones"}, tolerations=[toleration]))
        assert told.total["CPU"] == 7.0
    other = {"key": "gpu", "value": "no"}
    assert known(nodes, [], backend(nodeSelector={"pool": "phones"}, tolerations=[other])).total["CPU"] == 5.0


def test_nodes_with_accelerators_that_are_tainted_by_the_name_of_their_device_count() -> None:
    """Pods that request the device get the toleration at admission."""
    nodes = [
        node("gpus", gpu=4, taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]),
        node("npus", devices={"huawei.com/npu": "2"}, taints=[{"key": "huawei.com/npu", "effect": "NoSchedule"}]),
        node("others", gpu=8, taints=[{"key": "amd.com/gpu", "effect": "NoSchedule"}]),
    ]
    found = known(nodes, [], backend(devices={"npu": "huawei.com/npu"}))
    assert (found.available["GPU"], found.available["NPU"]) == (4.0, 2.0)


def test_a_pool_without_nodes_may_be_scaled_from_none_and_is_unknown_rather_than_full() -> None:
    taint = {"key": "other", "effect": "NoSchedule"}
    assert capacity([], {}, backend()) is None
    assert capacity([node("theirs", taints=[taint])], {}, backend()) is None

    async def connect() -> KubeApi:
        return cast(KubeApi, NoNodes())

    async def look() -> str:
        seen = await KubeRaySite("pods", backend(), connect, lambda: 0.0, own=False).observe()
        assert seen.capacity is None
        return seen.capacity_unknown

    assert virtual_time.run(look()) == "no node is there now that pods of the site may run on"


def test_a_node_that_takes_no_pods_now_is_part_of_the_site_and_nothing_of_it_is_free() -> None:
    down = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    nodes = [
        node("good", cpu="1"),
        node("cordoned", cpu="2", cordoned=True),
        node("silent", cpu="4", ready=False),
        node("tainted", cpu="8", taints=[down]),
        node("crowded", cpu="16", pods="1"),
    ]
    found = known(nodes, [pod("crowded", cpu="1")], backend())
    assert (found.total["CPU"], found.available["CPU"], len(found.machines)) == (31.0, 1.0, 1)


def test_a_pod_holds_what_the_scheduler_reserves_for_it() -> None:
    whole = pod("a", cpu="1")
    whole["spec"]["initContainers"] = [
        {"resources": {"requests": {"cpu": "250m"}}, "restartPolicy": "Always"},
        {"resources": {"requests": {"cpu": "3"}}},
    ]
    whole["spec"]["overhead"] = {"cpu": "500m"}
    assert known([node("a", cpu="8")], [whole], backend()).available["CPU"] == 8 - 3.25 - 0.5
    limited = pod("a")
    limited["spec"]["containers"] = [{"resources": {"limits": {"cpu": "2"}}}, {}]
    assert known([node("a", cpu="8")], [limited], backend()).available["CPU"] == 6.0
    limited["spec"]["resources"] = {"requests": {"cpu": "5"}}
    assert known([node("a", cpu="8")], [limited], backend()).available["CPU"] == 3.0


def test_accelerators_have_rays_names_whatever_the_devices_are_called_and_labels_tell_what_they_are() -> None:
    nodes = [
        node("a", devices={"huawei.com/Ascend310P": "2"}, labels={"node.kubernetes.io/npu.chip.name": "310P3"}),
        node("b", gpu=1, labels={"nvidia.com/gpu.product": "NVIDIA-H100-80GB"}),
    ]
    found = known(nodes, [], backend(devices={"npu": "huawei.com/Ascend310P"}))
    assert (found.total["NPU"], found.total["GPU"]) == (2.0, 1.0)
    assert found.models == {"GPU": ("NVIDIA-H100-80GB",), "NPU": ("310P3",)}


def test_a_worker_pod_needs_what_its_container_requests_and_its_template_counts() -> None:
    spec = {
        "engine": {"name": "transformers", "parallelism": {"tensor": 4}},
        "worker": {
            "accelerator": {"type": "gpu"},
            "resources": {"cpu": "1500m", "memory": "8Gi"},
            "template": {"spec": {"containers": [{"name": "side", "resources": {"requests": {"cpu": "500m"}}}]}},
        },
    }
    assert worker_need(fleet.deployment(spec), backend()) == {"CPU": 2.0, "memory": 8 * 2**30, "GPU": 4.0}
    assert head_need(backend(head={"cpu": 1, "memory": "2Gi"})) == {"CPU": 1.0, "memory": 2 * 2**30}


def free(*cpus: float) -> Capacity:
    return Capacity({"CPU": sum(cpus)}, {"CPU": sum(cpus)}, tuple({"CPU": one} for one in cpus))


def test_a_replica_has_to_fit_on_one_machine() -> None:
    assert fitting(free(3, 3, 3), {"CPU": 4}) == 0
    assert fitting(free(3, 9), {"CPU": 4}) == 2
    assert fitting(Capacity({"CPU": 9}, {"CPU": 9}), {"CPU": 4}) == 2, "machines are not told"
    assert fitting(free(1, 1), {"CPU": 0.1}) == 20


def test_the_head_goes_where_it_costs_the_fewest_replicas() -> None:
    assert fitting(free(4, 6), {"CPU": 4}, [{"CPU": 2}]) == 2
    assert fitting(free(4, 4), {"CPU": 4}, [{"CPU": 2}]) == 1
    assert fitting(free(4), {"CPU": 4}, [{"CPU": 2}]) == 0
    assert fitting(free(1, 1), {"CPU": 1}, [{"CPU": 2}]) == 0, "no machine takes the head"


def test_what_goes_first_is_laid_down_one_after_the_other() -> None:
    encoders = [{"CPU": 2.0}] * 3
    assert fitting(free(8, 7), {"CPU": 4}, encoders) == 2, "one beside a replica, two in the place of one"
    assert fitting(free(4, 4), {"CPU": 4}, encoders) == 0
    assert fitting(free(2, 2), {"CPU": 1}, encoders) == 0, "the third finds no place"
    assert fitting(Capacity({}, {"CPU": 8.0, "GPU": 2.0}), {"CPU": 1, "GPU": 1}, [{"CPU": 2, "GPU": 1}]) == 1


class NoNodes:
    """An API server with nothing in it."""

    async def request(self, call: Call) -> dict[str, Any]:
        return {"items": []}


class SlowNodes(NoNodes):
    """It answers at once, but for nodes and pods: three pages of nodes, of which each takes a while."""

    def __init__(self, page_s: float) -> None:
        self.page_s = page_s
        self.asked = 0
        self.given_up = 0

    @override
    async def request(self, call: Call) -> dict[str, Any]:
        if not call.path.startswith("/api/v1/"):
            return await super().request(call)
        self.asked += 1
        try:
            await asyncio.sleep(self.page_s)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        page = int(dict(call.query).get("continue") or 0)
        nodes = [node(f"n{page}", cpu="4")] if call.path == "/api/v1/nodes" else []
        return {"items": nodes, "metadata": {"continue": str(page + 1) if nodes and page < 2 else ""}}


async def look(api: SlowNodes, seconds: float) -> list[tuple[float, float, ClusterView]]:
    """What is seen of a site that is looked at every ten seconds: when a look began, how long it took, what it told."""

    async def connect() -> KubeApi:
        return cast(KubeApi, api)

    loop, looks = asyncio.get_running_loop(), []
    site = KubeRaySite("pods", backend(), connect, loop.time, own=False)
    start = loop.time()
    while loop.time() - start < seconds:
        begun = loop.time()
        seen = await site.observe()
        looks.append((begun - start, loop.time() - begun, seen))
        await asyncio.sleep(10.0)
    await site.close()
    return looks


def test_a_slow_list_of_nodes_does_not_hold_up_what_is_told_of_the_applications() -> None:
    api = SlowNodes(3600.0)
    looks = virtual_time.run(look(api, 20.0))
    assert [round(took, 1) for _, took, _ in looks] == [5.0, 0.0]
    told = [seen.capacity_unknown for *_, seen in looks]
    assert told == [STILL_LISTED, "a page of nodes or pods was not listed within 10 s"]
    assert (api.asked, api.given_up) == (1, 1)


def test_a_list_of_many_pages_takes_as_long_as_it_takes_and_the_last_figures_hold_meanwhile() -> None:
    """Six pages of 8 s each, none of which is late: nothing of it was ever told within a limit for all."""
    api = SlowNodes(8.0)
    looks = virtual_time.run(look(api, 200.0))
    assert all(took <= 5.0 for _, took, _ in looks)
    known = [(begun, seen.capacity) for begun, _, seen in looks if seen.capacity is not None]
    assert known, "it is told at last"
    assert 48.0 <= known[0][0] <= 60.0
    assert all(found.total["CPU"] == 12.0 for _, found in known)
    words = {seen.capacity_unknown for begun, _, seen in looks if begun > known[0][0]}
    assert words == {""}, "that it is listed again is no news"


def test_what_is_being_listed_ends_with_the_site() -> None:
    api = SlowNodes(9.0)
    virtual_time.run(look(api, 1.0))
    assert (api.asked, api.given_up) == (2, 1)


class Pod(dict[str, Any]):
    """A pod that can be asked whether somebody still keeps it."""


class ManyPods(NoNodes):
    """An API server of 4 pages of pods on more nodes than are asked one by one. As a real one, it has pages only of what it
    reads anew, not of what it has in memory."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[Pod]] = []
        self.most_kept = 0

    @override
    async def request(self, call: Call) -> dict[str, Any]:
        query = dict(call.query)
        if call.path == "/api/v1/nodes":
            return {"items": [node(f"n{number}", cpu="4") for number in range(FEW_NODES + 1)]}
        if call.path != "/api/v1/pods":
            return await super().request(call)
        page, last = int(query.get("continue") or 0), "resourceVersion" in query
        made = [Pod(pod("n0", cpu="1")) for _ in range(4 if last else 1)]
        self.given += map(weakref.ref, made)
        self.most_kept = max(self.most_kept, sum(one() is not None for one in self.given))
        return {"items": made, "metadata": {"continue": "" if last or page == 3 else str(page + 1)}}


def test_of_all_the_pods_of_a_large_cluster_one_page_is_kept_at_once() -> None:
    """A hundred thousand pods are a gigabyte, and more than an operator may have."""
    api = ManyPods()

    async def connect() -> KubeApi:
        return cast(KubeApi, api)

    async def look() -> Capacity | None:
        clock = asyncio.get_running_loop().time
        return (await KubeRaySite("pods", backend(), connect, clock, own=False).observe()).capacity

    found = virtual_time.run(look())
    assert found is not None
    assert (len(api.given), found.available["CPU"]) == (4, 4.0 * FEW_NODES), "the pods of all pages count"
    assert api.most_kept <= 2, "a page, while the next one comes"
