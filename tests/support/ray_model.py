"""One Ray cluster in memory: what PUT makes of its Serve applications, and what GET tells afterwards. No server, no I/O."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from support import fake_ray
from support.fake_ray import Application, details, follow, make_room, taken

EMPTY = b'{"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": null}'


@dataclass
class RayModel:
    """The applications of a cluster. `clock` tells its seconds, so that a simulation may move them."""

    clock: Callable[[], float]
    deploy_s: float = 0.2
    delete_s: float = 0.2
    cores: float | None = None
    """Free for replicas, where the cluster is to have an end; may fall while replicas run."""
    applications: dict[str, Application] = field(default_factory=dict)
    deployed: list[tuple[str, str]] = field(default_factory=list)
    """Every application that was made or changed, with its revision, in order."""
    _answer: bytes | None = None

    def put(self, configs: Sequence[Mapping[str, Any]]) -> None:
        """The whole list of applications that shall be there: what is not in it goes."""
        self._answer = None
        wanted = {str(config["name"]): dict(config) for config in configs}
        for name, config in wanted.items():
            known = self.applications.get(name)
            if known is None or known.config != config or known.status == "DELETING":
                made = Application(config, since=self.clock(), deployed_at=self.clock())
                self.applications[name] = follow(known, made)
                self.deployed.append((name, str((config.get("args") or {}).get("revision"))))
        for name in self.applications.keys() - wanted.keys():
            one = self.applications[name]
            if one.status != "DELETING":
                one.status, one.since, one.config = "DELETING", self.clock(), None

    def touch(self) -> None:
        """An application was changed from outside: the next answer is made anew."""
        self._answer = None

    def get(self) -> bytes:
        """The document of all applications."""
        self._advance()
        if self._answer is None:
            self._answer = self._document()
        return self._answer

    def figures(self) -> dict[str, Any]:
        """What `/api/cluster_status` answers."""
        self._advance()
        if self.cores is None:
            return cluster_status()
        used = taken(self.applications.values())
        return fake_ray.cluster_status(used, max(self.cores, used))

    def serving(self, name: str) -> str | None:
        """The revision that answers, or None."""
        self._advance()
        one = self.applications.get(name)
        if one is None or not one.running or (one.status == "UNHEALTHY" and not one.waiting):
            return None
        return str(((one.config or {}).get("args") or {}).get("revision"))

    def _advance(self) -> None:
        """What time does: deploying applications run, deleted ones are gone."""
        now = self.clock()
        if self.cores is not None:
            make_room(self.applications.values(), self.cores)
            self._answer = None
        for name, one in tuple(self.applications.items()):
            if one.status == "DEPLOYING" and now - one.since >= self.deploy_s:
                one.arrive()
                self._answer = None
            elif one.status == "DELETING" and now - one.since >= self.delete_s:
                del self.applications[name]
                self._answer = None

    def _document(self) -> bytes:
        if not self.applications:
            return EMPTY
        document = {
            "controller_info": {"node_id": "n1", "actor_name": "SERVE_CONTROLLER_ACTOR"},
            "proxy_location": "EveryNode",
            "http_options": {"host": "127.0.0.1", "port": 8000, "root_path": ""},
            "proxies": {},
            "target_capacity": None,
            "applications": {name: details(name, one) for name, one in self.applications.items()},
        }
        return json.dumps(document).encode()


def cluster_status() -> dict[str, Any]:
    """What `/api/cluster_status` answers for a cluster without an end."""
    return fake_ray.cluster_status(1.0, 512.0)
