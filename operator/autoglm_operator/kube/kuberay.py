"""A site whose Ray clusters KubeRay makes: RayServices of one namespace, read and written through the API server.

What is free there comes from the nodes and the pods on them, which changes slowly and is read less often, beside all else: a
list of tens of thousands of pods takes as long as it takes.

Objects are written by server-side apply under the operator's name, so that a field that a person changed is taken back and
one that somebody added beside ours stays. Whatever belongs to others is left alone, and so is its name.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from autoglm_operator.api import KubeRayBackend
from autoglm_operator.backend import ClusterView, SiteFailure
from autoglm_operator.kube.api import (
    APPLY_PATCH,
    FIELD_MANAGER,
    JSON_PATCH,
    Call,
    Forbidden,
    KubeApi,
    Refused,
)
from autoglm_operator.kube.pages import each_page, pages
from autoglm_operator.kuberay import capacity, names, observed
from autoglm_operator.state import STILL_LISTED, ApplicationChange, ApplyApplication, Capacity, DeleteApplication
from autoglm_operator.store import Conflict, JsonObject, NotFound, NotLeading, StoreError

RAY = "/apis/ray.io/v1"
_PATHS = {
    "RayService": (RAY, "rayservices"),
    "RayCluster": (RAY, "rayclusters"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
}
_CHILDREN = ("PodDisruptionBudget", "NetworkPolicy")

CAPACITY_S = 15.0
"""How often nodes and their pods are read. What is free changes slowly, and reading it costs the API server more."""

WAITED_S = 5.0
"""How long what is told of the applications waits for that; what takes longer goes on, and is told when it is there."""

PAGE_WITHIN_S = 10.0
"""How long one page of nodes or pods may take. All of them together may take as long as there are pages."""

FEW_NODES = 20
"""Up to so many nodes each is asked for its pods alone, which the API server finds at once; else all pods are read, page by
page: of tens of thousands no more than one page is ever kept."""

NO_NODES = "no node is there now that pods of the site may run on"

Query = tuple[tuple[str, str], ...]

_CACHED = ("resourceVersion", "0")
"""From the API server's memory: a figure that is seconds old is good enough here."""


class KubeRaySite:
    """The back end of one site. `connect` gives the API of the site's Kubernetes cluster when it is first needed."""

    def __init__(
        self,
        site: str,
        kube: KubeRayBackend,
        connect: Callable[[], Awaitable[KubeApi]],
        clock: Callable[[], float],
        *,
        own: bool,
    ) -> None:
        """`own` says that the connection is this site's alone, to be closed with it and made anew when it is refused."""
        self._site = site
        self._kube = kube
        self._namespace = kube.namespace
        self._connect = connect
        self._clock = clock
        self._own = own
        self._api: KubeApi | None = None
        self._capacity: Capacity | None = None
        self._capacity_unknown = STILL_LISTED
        self._capacity_due = float("-inf")
        self._discovery: asyncio.Task[None] | None = None

    async def observe(self) -> ClusterView:
        """Every RayService of the namespace as an application, and what is free on the site's nodes."""
        found = observed.applications(await self._guarded(self._look), self._site)
        is_known = await self._look_at_nodes()
        capacity = self._capacity if is_known else None
        return ClusterView(found, self._kube.ray_version, capacity, self._capacity_unknown)

    async def _look_at_nodes(self) -> bool:
        """Whether what is known of the nodes was read lately. Not while it is read anew and that takes long."""
        if self._discovery is None and self._clock() >= self._capacity_due:
            self._discovery = asyncio.create_task(self._discover(), name=f"nodes of site {self._site}")
            await asyncio.wait({self._discovery}, timeout=WAITED_S)
        if self._discovery is not None and not self._discovery.done():
            return False
        if self._discovery is not None:
            done, self._discovery = self._discovery, None
            self._capacity_due = self._clock() + CAPACITY_S
            done.result()
        return True

    async def _discover(self) -> None:
        """What is free. A site where that may not be read, or cannot just now, is a good site still."""
        found, why = None, ""
        try:
            found = await self._guarded(self._read_nodes, close=False)
            why = "" if found else NO_NODES
        except TimeoutError:
            why = f"a page of nodes or pods was not listed within {PAGE_WITHIN_S:g} s"
        except SiteFailure as failure:
            why = f"nodes and pods cannot be listed: {failure.error.message}"
        self._capacity, self._capacity_unknown = found, why

    async def _read_nodes(self, api: KubeApi) -> Capacity | None:
        labels = ",".join(f"{key}={value}" for key, value in sorted(self._kube.node_selector.items()))
        selector = (("labelSelector", labels),) if labels else ()
        nodes = await pages(api, "/api/v1/nodes", (_CACHED, *selector), PAGE_WITHIN_S)
        running = "status.phase!=Succeeded,status.phase!=Failed"
        queries: list[Query] = [(("fieldSelector", f"spec.nodeName!=,{running}"),)]
        if len(nodes) <= FEW_NODES:
            fields = (f"spec.nodeName={node['metadata']['name']},{running}" for node in nodes)
            queries = [(_CACHED, ("fieldSelector", one)) for one in fields]
        taken: capacity.Taken = {}
        for query in queries:
            async for page in each_page(api, "/api/v1/pods", query, PAGE_WITHIN_S):
                taken = capacity.together(taken, capacity.taken(page, self._kube))
        return capacity.capacity(nodes, taken, self._kube)

    async def apply(self, changes: Sequence[ApplicationChange]) -> bool:
        """Makes the changes, one after the other; each can be repeated without harm."""
        for change in changes:
            await self._guarded(self._put if isinstance(change, ApplyApplication) else self._delete, change)
        return bool(changes)

    async def close(self) -> None:
        """Ends what is being listed, and closes the connection if it is this site's own."""
        listing, self._discovery = self._discovery, None
        if listing is not None:
            listing.cancel()
            await asyncio.wait({listing})
        api, self._api = self._api, None
        if api is not None and self._own:
            api.close()

    async def _guarded(self, work: Callable[..., Awaitable[Any]], *arguments: Any, close: bool = True) -> Any:
        """Failures of the API server, as failures of the site. `close` makes the connection anew where it is refused."""
        try:
            if self._api is None:
                self._api = await self._connect()
            return await work(self._api, *arguments)
        except NotLeading:
            raise
        except Forbidden as error:
            if close:
                await self.close()
            raise SiteFailure("Unauthorized", f"the operator may not do this at the site: {error}") from None
        except Refused as error:
            raise SiteFailure("DeployFailed", f"the API server refused an object: {error}") from None
        except Conflict as error:
            raise SiteFailure("DeployFailed", f"an object changed meanwhile and is written again: {error}") from None
        except StoreError as error:
            raise SiteFailure("Unreachable", str(error)) from None

    async def _look(self, api: KubeApi) -> observed.Listing:
        ours = (("labelSelector", f"{names.SITE}={self._site}"),)
        try:
            services, clusters, *children = await asyncio.gather(
                pages(api, self._path("RayService")),
                pages(api, self._path("RayCluster"), ours),
                *(pages(api, self._path(kind), ours) for kind in _CHILDREN),
            )
        except NotFound:
            raise SiteFailure("KubeRayMissing", "the API server does not know ray.io/v1: install KubeRay") from None
        listed = [_of_kind(raw, kind) for kind, found in zip(_CHILDREN, children, strict=True) for raw in found]
        return observed.Listing([_of_kind(raw, "RayService") for raw in services], clusters, listed)

    async def _put(self, api: KubeApi, change: ApplyApplication) -> None:
        if not change.manifests:
            raise SiteFailure("InternalError", f"nothing was made of application {change.name} for a site with KubeRay")
        name = str(change.manifests[0]["metadata"]["name"])
        present = await self._get(api, "RayService", name)
        if present is not None and not self._is_ours(present, change.uid):
            raise SiteFailure(
                "NameTaken", f"RayService {self._namespace}/{name} belongs to somebody else and is left alone"
            )
        for manifest in change.manifests:
            query = (("fieldManager", FIELD_MANAGER), ("force", "true"))
            path = f"{self._path(manifest['kind'])}/{manifest['metadata']['name']}"
            await api.request(Call("PATCH", path, query, _pinned(manifest, present), APPLY_PATCH))
        for cluster, workers in change.workers.items():
            await self._resize(api, cluster, workers)

    async def _resize(self, api: KubeApi, cluster: str, workers: int) -> None:
        """Asks a RayCluster for so many workers. KubeRay leaves that number to whoever scales, and copies it never again."""
        raw = await self._get(api, "RayCluster", cluster)
        groups = (raw or {}).get("spec", {}).get("workerGroupSpecs") or ()
        for place, group in enumerate(groups):
            if group.get("groupName") != names.WORKERS:
                continue
            where = f"/spec/workerGroupSpecs/{place}"
            patch: list[JsonObject] = [{"op": "test", "path": f"{where}/groupName", "value": names.WORKERS}]
            patch += [
                {"op": "add", "path": f"{where}/{bound}", "value": workers} for bound in ("minReplicas", "maxReplicas")
            ]
            if workers > int(group.get("replicas") or 0):
                patch.append({"op": "add", "path": f"{where}/replicas", "value": workers})
            query = (("fieldManager", FIELD_MANAGER),)
            await api.request(Call("PATCH", f"{self._path('RayCluster')}/{cluster}", query, patch, JSON_PATCH))

    async def _delete(self, api: KubeApi, change: DeleteApplication) -> None:
        """In the foreground: the RayService stays, as one that is going, until its pods are gone."""
        name = names.of_unnamed(change.name) or names.ray_service(change.name, self._site)
        raw = await self._get(api, "RayService", name)
        if raw is None or not self._is_ours(raw, change.uid) or raw["metadata"].get("deletionTimestamp"):
            return
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": raw["metadata"]["uid"]}}
        try:
            await api.request(Call("DELETE", f"{self._path('RayService')}/{name}", (), body))
        except (NotFound, Conflict):
            return  # it is gone, or another one of this name is there, which is not ours to delete

    async def _get(self, api: KubeApi, kind: str, name: str) -> JsonObject | None:
        try:
            return await api.request(Call("GET", f"{self._path(kind)}/{name}"))
        except NotFound:
            return None

    def _is_ours(self, raw: JsonObject, uid: str) -> bool:
        metadata = raw["metadata"]
        annotations = metadata.get("annotations") or {}
        owner = annotations.get(names.DEPLOYMENT_UID)
        return names.is_ours(metadata.get("labels") or {}, annotations, self._site) and owner in (None, uid)

    def _path(self, kind: str) -> str:
        group, plural = _PATHS[kind]
        return f"{group}/namespaces/{self._namespace}/{plural}"


def _of_kind(raw: JsonObject, kind: str) -> JsonObject:
    """Entries of a list do not say what they are."""
    return {**raw, "kind": kind}


def _pinned(manifest: Mapping[str, Any], present: JsonObject | None) -> JsonObject:
    """A RayService that was seen is written only while it is still that one."""
    if present is None or manifest["kind"] != "RayService":
        return dict(manifest)
    return {**manifest, "metadata": {**manifest["metadata"], "uid": present["metadata"]["uid"]}}
