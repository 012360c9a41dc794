"""One namespace of an API server in memory, with KubeRay at work in it: what is written there, and what is read afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoglm_operator.kube.api import Call
from autoglm_operator.kuberay.names import SITE
from autoglm_operator.store import Conflict, NotFound
from support.pod_application import PodApplication

Json = dict[str, Any]


@dataclass
class KubeModel:
    """The RayServices of a site, whose namespace has its name. `clock` tells seconds, so that a simulation may move them."""

    site: str
    clock: Callable[[], float]
    deploy_s: float = 1.0
    delete_s: float = 1.0
    services: dict[str, PodApplication] = field(default_factory=dict)
    """By the name of the RayService."""
    deployed: list[tuple[str, str]] = field(default_factory=list)
    """Every application that was made or changed, with its revision, in order."""
    pods: list[int] = field(default_factory=list)
    """Worker pods that held accelerators, or were asked for, after each write."""
    _since: dict[str, float] = field(default_factory=dict)
    _made: int = 0

    @property
    def applications(self) -> dict[str, PodApplication]:
        """By the name of the application."""
        self._advance()
        return {str(one.config["name"]): one for one in self.services.values()}

    def serving(self, application: str) -> str | None:
        """The revision that answers, or None."""
        one = self.applications.get(application)
        return one.serving if one is not None and one.ready else None

    def request(self, call: Call) -> Json:
        """The answer to one call."""
        self._advance()
        *_, kind, name = call.path.split("/") if call.path.count("/") > _COLLECTION else (*call.path.split("/"), "")
        if call.method == "GET":
            return self._one(kind, name) if name else {"items": self._listed(kind, dict(call.query))}
        if call.method == "PATCH":
            self._patch(kind, name, call.body)
        else:
            self._delete(name, call.body)
        self.pods.append(sum(one.held for one in self.services.values()))
        return {}

    def _one(self, kind: str, name: str) -> Json:
        found = [one for one in self._listed(kind, {}) if one["metadata"]["name"] == name]
        if not found:
            raise NotFound(f"there is no {kind} {name}")
        return found[0]

    def _listed(self, kind: str, query: Mapping[str, str]) -> list[Json]:
        key, _, value = query.get("labelSelector", "").partition("=")
        assert key in ("", SITE)
        found = [one for service in self.services.values() for one in _objects(service, kind)]
        return [one for one in found if not key or one["metadata"]["labels"].get(key) == value]

    def _patch(self, kind: str, name: str, body: Any) -> None:
        if kind == "rayclusters":
            service = next(one for one in self.services.values() if one.cluster == name)
            service.workers = next(one["value"] for one in body if one["path"].endswith("maxReplicas"))
            self._since[service.name] = self.clock()
        elif kind == "rayservices":
            self._put(name, body)
        else:
            service = self.services[name]
            others = [one for one in service.children if one["kind"] != body["kind"]]
            service.children = [*others, body]

    def _put(self, name: str, body: Json) -> None:
        old, pinned = self.services.get(name), body["metadata"].get("uid")
        if (old.uid if old else None) != pinned and pinned is not None:
            raise Conflict(f"another RayService {name} is there")
        before = old.config if old else None
        if old is None:
            self._made += 1
            old = self.services[name] = PodApplication(body, self.site, f"uid-{self._made}")
        else:
            old.put((body,), None)
        if old.config != before:
            self.deployed.append((str(old.config["name"]), str(old.config["args"]["revision"])))
            self._since[name] = self.clock()

    def _delete(self, name: str, body: Json) -> None:
        found = self.services.get(name)
        if found is None or found.uid != body["preconditions"]["uid"]:
            raise NotFound(f"there is no such RayService {name}")
        found.status = "DELETING"
        self._since[name] = self.clock()

    def _advance(self) -> None:
        """What time does: pods start and end, replicas with them, and what was deleted is gone."""
        for name, one in tuple(self.services.items()):
            lasted = self.clock() - self._since[name]
            if one.status == "DELETING":
                if lasted >= self.delete_s:
                    del self.services[name]
            elif lasted >= self.deploy_s:
                one.finish(1_000)


_COLLECTION = "/apis/ray.io/v1/namespaces/a/rayservices".count("/")


def _objects(service: PodApplication, kind: str) -> list[Json]:
    if kind == "rayservices":
        return [service.ray_service()]
    if kind == "rayclusters":
        return [service.ray_cluster()] if service.made_from is not None else []
    plural = {"PodDisruptionBudget": "poddisruptionbudgets", "NetworkPolicy": "networkpolicies"}
    return [child for child in service.children if plural[child["kind"]] == kind]
