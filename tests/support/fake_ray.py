"""A fake Serve REST API of Ray: what the operator sees of a Ray cluster, with faults on demand.

Bodies are checked by Ray's own schema and come back as Ray gives them back, so that what works here is what Ray takes.
The real Ray cluster of the end-to-end tests proves the rest.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web
from typing_extensions import override

from support.threaded_server import ThreadedServer

Fault = Literal["unauthorized", "forbidden", "error", "slow", "hang", "garbage", "redirect", "not-found"]
APPLICATIONS = "/api/serve/applications/"


@dataclass
class Application:
    """One application on the cluster. `config` is None for one that a program deployed."""

    config: dict[str, Any] | None
    source: str = "declarative"
    status: str = "DEPLOYING"
    message: str = ""
    since: float = field(default_factory=time.monotonic)
    deployed_at: float = field(default_factory=time.time)
    ready: int | None = None
    """Running replicas of the engine; None: as many as wanted once it runs."""
    kept: int = 0
    """Running replicas that stay while the number is changed in place."""
    room: int | None = None
    """Replicas that have a place on the cluster; None: all."""

    @property
    def running(self) -> int:
        """Running replicas of the engine."""
        up = self.wanted if self.status in ("RUNNING", "UNHEALTHY") else min(self.kept, self.wanted)
        up = up if self.ready is None else self.ready
        return up if self.room is None else min(up, self.room)

    @property
    def wanted(self) -> int:
        """Replicas of the engine that the configuration asks for."""
        config = self.config or {}
        for deployment in config.get("deployments") or ():
            if deployment.get("name") == "Engine" and "num_replicas" in deployment:
                return int(deployment["num_replicas"])
        return int((config.get("args") or {}).get("replicas") or 1)

    def arrive(self) -> None:
        """What was deployed has started, as far as there is a place for it."""
        if self.waiting:
            self.kept = self.wanted
        else:
            self.status = "RUNNING"

    @property
    def waiting(self) -> int:
        """Replicas that have no place on the cluster."""
        return 0 if self.room is None else max(self.wanted - self.room, 0)

    @property
    def cores(self) -> float:
        """What one replica takes."""
        worker = ((self.config or {}).get("args") or {}).get("worker") or {}
        return float(worker.get("cpus", 1.0))


def follow(known: Application | None, made: Application) -> Application:
    """The application that replaces `known`: as in Serve, what runs of the same code and arguments runs on."""
    if known is not None and known.status != "DELETING" and _code(known.config) == _code(made.config):
        made.kept = known.running
    return made


def make_room(applications: Iterable[Application], cores: float) -> None:
    """Gives each application what its replicas take of the cores, in order; those without a place wait to be scheduled."""
    for one in applications:
        each = one.cores
        one.room = min(one.wanted, int(cores / each))
        cores -= one.room * each
        if one.room < one.wanted and one.status == "RUNNING":
            one.status = "UNHEALTHY"
        elif one.room == one.wanted and one.status == "UNHEALTHY":
            one.status = "RUNNING"


@dataclass(frozen=True)
class Request:
    """One request that reached the server."""

    method: str
    path: str
    token: str | None


class FakeRay(ThreadedServer):
    """One Ray cluster. Attributes may be changed while it runs."""

    def __init__(self, token: str | None = "right-token", deploy_s: float = 0.2) -> None:
        """Without a token it is an open cluster. `deploy_s`: how long an application is DEPLOYING."""
        super().__init__()
        self.token = token
        self.deploy_s = deploy_s
        self.cores: float | None = None
        """Free for replicas, where the cluster is to have an end; may fall while replicas run."""
        self.fault: Fault | None = None
        self.put_fault: Fault | None = None
        self.refuse_config: str | None = None
        self.applications: dict[str, Application] = {}
        self.http_options: dict[str, Any] | None = None
        self.requests: list[Request] = []
        self.puts: list[dict[str, Any]] = []
        self.after_put: Callable[[], None] = lambda: None
        self.before_put: Callable[[], None] = lambda: None
        self.writers = 0
        self.most_writers = 0
        self.session = secrets.token_hex(4)
        self._lock = threading.RLock()

    @override
    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        application.router.add_get(APPLICATIONS, self._get)
        application.router.add_put(APPLICATIONS, self._put)
        application.router.add_delete(APPLICATIONS, self._delete)
        application.router.add_get("/api/version", self._version)
        application.router.add_get("/api/cluster_status", self._cluster_status)
        return application

    @override
    def start(self) -> None:
        """Begin to listen, with Ray's schema loaded: that takes seconds, which no request shall wait for."""
        _as_ray_keeps_it({"applications": []})
        super().start()

    def config(self, name: str) -> dict[str, Any] | None:
        """The configuration of an application, or None when there is no such application."""
        with self._lock:
            found = self.applications.get(name)
            return found.config if found else None

    def live(self) -> set[str]:
        """Applications that are not being removed."""
        with self._lock:
            return {name for name, one in self.applications.items() if one.status != "DELETING"}

    def add_foreign(self, name: str, *, declarative: bool = True) -> dict[str, Any]:
        """Somebody else's application, already running; its configuration."""
        config: dict[str, Any] = {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": "shop.recommender:app",
            "runtime_env": {"env_vars": {"DATABASE": "postgres://user:password@db/shop"}},
            "args": {"uid": "not-a-resource"},
        }
        with self._lock:
            self.applications[name] = Application(
                config if declarative else None, "declarative" if declarative else "imperative", "RUNNING"
            )
        return config

    def remove(self, name: str) -> None:
        """Somebody deletes an application by hand."""
        with self._lock:
            self.applications.pop(name, None)

    def restart(self) -> None:
        """The head dies and comes back without its memory."""
        self.stop()
        with self._lock:
            self.applications.clear()
            self.http_options = None
        self.start()

    def set_status(self, name: str, status: str, message: str = "") -> None:
        """Ray's verdict on an application, until it is deployed anew."""
        with self._lock:
            application = self.applications[name]
            application.status, application.message = status, message

    def count(self, method: str | None = None) -> int:
        """Requests so far."""
        return sum(1 for request in tuple(self.requests) if method in (None, request.method))

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        header = request.headers.get("Authorization", "")
        token = header.removeprefix("Bearer ") or None
        self.requests.append(Request(request.method, request.path, token))
        fault = self.fault or (self.put_fault if request.method == "PUT" else None)
        if fault is not None:
            answer = await self._fail(fault)
            if answer is not None:
                return answer
        if self.token is not None:
            if token is None:
                return web.Response(status=401, text="Unauthorized: Missing authentication token")
            if token != self.token:
                return web.Response(status=403, text="Forbidden: Invalid authentication token")
        response: web.StreamResponse = await handler(request)
        return response

    async def _fail(self, fault: Fault) -> web.Response | None:
        match fault:
            case "unauthorized":
                return web.Response(status=401, text="Unauthorized: Missing authentication token")
            case "forbidden":
                return web.Response(status=403, text="Forbidden: Invalid authentication token")
            case "error":
                return web.Response(status=500, text="Traceback (most recent call last): internal-secret-path")
            case "garbage":
                return web.Response(text="<html>It works!</html>", content_type="text/html")
            case "not-found":
                return web.Response(status=404, text="404: Not Found")
            case "redirect":
                return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/elsewhere"})
            case "hang":
                await asyncio.sleep(3600)
            case "slow":
                await asyncio.sleep(2)
        return None

    async def _get(self, _: web.Request) -> web.Response:
        with self._lock:
            self._advance()
            return web.json_response(self._document())

    def _document(self) -> dict[str, Any]:
        if self.http_options is None and not self.applications:
            return {"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": None}
        return {
            "controller_info": {"node_id": "n1", "actor_name": "SERVE_CONTROLLER_ACTOR"},
            "proxy_location": "EveryNode",
            "http_options": self.http_options or {"host": "0.0.0.0", "port": 8000, "root_path": ""},
            "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
            "proxies": {},
            "target_capacity": None,
            "applications": {name: details(name, one) for name, one in self.applications.items()},
            "restores_unset_config_options": True,
        }

    def _advance(self) -> None:
        """What time does: deploying applications run, deleted ones go."""
        now = time.monotonic()
        if self.cores is not None:
            make_room(self.applications.values(), self.cores)
        for name, application in tuple(self.applications.items()):
            if now - application.since < self.deploy_s:
                continue
            if application.status == "DELETING":
                del self.applications[name]
            elif application.status == "DEPLOYING":
                application.arrive()

    async def _put(self, request: web.Request) -> web.Response:
        self.writers += 1
        self.most_writers = max(self.most_writers, self.writers)
        try:
            await asyncio.to_thread(self.before_put)
            return await asyncio.to_thread(self._deploy, await request.json())
        finally:
            self.writers -= 1

    def _deploy(self, body: dict[str, Any]) -> web.Response:
        if self.refuse_config is not None:
            return web.Response(status=400, text=self.refuse_config)
        try:
            configs = _as_ray_keeps_it(body)
        except ValueError as error:
            return web.Response(status=400, text=repr(error))
        with self._lock:
            self.puts.append(body)
            self.http_options = self.http_options or body.get("http_options") or {}
            for name, application in self.applications.items():
                if name not in configs and application.source == "declarative" and application.status != "DELETING":
                    application.status, application.since = "DELETING", time.monotonic()
                    application.config = None
            for name, config in configs.items():
                known = self.applications.get(name)
                if known is None or known.config != config or known.status == "DELETING":
                    self.applications[name] = follow(known, Application(config))
        self.after_put()
        return web.Response()

    async def _delete(self, _: web.Request) -> web.Response:
        with self._lock:
            self.applications.clear()
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "session_name": self.session})

    async def _cluster_status(self, _: web.Request) -> web.Response:
        with self._lock:
            self._advance()
            used = 1.0 if self.cores is None else 8.0 - self.cores + taken(self.applications.values())
        return web.json_response(cluster_status(used, 8.0))


def cluster_status(used: float, cores: float) -> dict[str, Any]:
    """What `/api/cluster_status` answers."""
    usage = {"CPU": [used, cores], "memory": [0.0, 16e9]}
    return {"result": True, "msg": "", "data": {"clusterStatus": {"loadMetricsReport": {"usage": usage}}}}


def taken(applications: Iterable[Application]) -> float:
    """Cores that running replicas take."""
    return sum(one.running * one.cores for one in applications)


def details(name: str, application: Application) -> dict[str, Any]:
    """What Ray tells about one application."""
    settled, ready = application.status in ("RUNNING", "UNHEALTHY"), application.running
    waits = f"Deployment 'Engine' has {application.waiting} replicas that have taken more than 30s to be scheduled."
    engine = {
        "name": "Engine",
        "status": "HEALTHY" if settled and not application.waiting else "UPDATING",
        "message": waits if application.waiting else "",
        "target_num_replicas": application.wanted,
        "replicas": [{"replica_id": f"{name}-{number}", "state": "RUNNING"} for number in range(ready)]
        + [{"replica_id": f"{name}-{n}", "state": "STARTING"} for n in range(ready, application.wanted)],
    }
    config = application.config or {}
    return {
        "name": name,
        "route_prefix": config.get("route_prefix"),
        "docs_path": None,
        "status": application.status,
        "message": application.message,
        "last_deployed_time_s": application.deployed_at,
        "deployed_app_config": None if application.status == "DELETING" else application.config,
        "source": application.source,
        "deployments": {} if application.status == "DELETING" else {"Engine": engine},
        "external_scaler_enabled": False,
    }


def _code(config: Mapping[str, Any] | None) -> Any:
    """What Serve restarts replicas for."""
    return {name: value for name, value in (config or {}).items() if name != "deployments"}


def _as_ray_keeps_it(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Checks a body by Ray's schema (ValueError says why not); the configurations as Ray tells them afterwards."""
    from ray.serve.schema import ServeDeploySchema

    deployed = ServeDeploySchema.model_validate(body)
    return {app.name: app.model_dump(mode="json", exclude_unset=True) for app in deployed.applications}
