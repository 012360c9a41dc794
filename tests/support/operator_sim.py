"""The whole controller in a world in memory, in virtual time: an API server, Ray clusters, gateways and a Lease.

Everything that an operator does outside its process goes through `World.call`, where a test lets it fail, get lost, hang, or
kills the operator before or after the call took effect. The code of the operator is the real one down to the HTTP
requests: only the sending of bytes is replaced.
"""

import asyncio
import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar, cast
from unittest.mock import patch
from urllib.parse import urlsplit

from autoglm_operator.controller import Controller, Parts
from autoglm_operator.gateway_client import GatewayClient, GatewayFailed
from autoglm_operator.kube import KubeApi
from autoglm_operator.kube.api import Call
from autoglm_operator.lease import Elector, LeaseName
from autoglm_operator.ray_serve import Credentials, RayServeClient, SiteFailure
from autoglm_operator.state import Event
from autoglm_operator.store import (
    DEPLOYMENT,
    SITE,
    Conflict,
    JsonObject,
    Kind,
    NotFound,
    NotLeading,
    ObjectKey,
    StoreError,
)
from autoglm_serving.measurements import LoadReport, RevisionReport, SiteLoadReport
from autoglm_serving.routing_table import (
    Admission,
    Endpoint,
    GatewayReport,
    LinkReport,
    Route,
    RoutingTable,
    SignedTable,
    sign,
    verify,
)
from support.kube_model import KubeModel
from support.ray_model import RayModel
from support.virtual_time import VirtualLoop

T = TypeVar("T")
Fault = Literal["killed before", "killed after", "fails", "answer lost", "conflict"]

READS = ("get", "list", "read", "secret", "GET")

TOKEN = "simulated-token"
GATEWAY = "http://gateway.example:9901"
BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RAY_TOKEN = "ray-token"


_process: ContextVar["Process"] = ContextVar("process")
"""Whose task is running; a task inherits it from the one that made it."""


def writes(what: str) -> bool:
    """Whether a call changes something."""
    return not what.startswith(READS)


class Dead(asyncio.CancelledError):
    """The process is gone: nothing that it still does has an effect."""


@dataclass
class Trap:
    """One fault at the n-th call of an operator. `hit` says what was called then."""

    at: int
    fault: Fault
    hit: str | None = None


@dataclass
class Process:
    """One operator process."""

    name: str
    trap: Trap | None = None
    dead: bool = False
    calls: list[str] = field(default_factory=list)
    """What it called, in order."""
    frozen_until: float = 0.0
    """Until then every call hangs before it takes effect, as if the process had been stopped."""
    main: "asyncio.Task[None] | None" = None
    controller: Controller | None = None
    elector: Elector | None = None

    def kill(self) -> None:
        """As SIGKILL: nothing is said to anybody."""
        self.dead = True
        if self.main is not None:
            self.main.cancel()


class World:
    """Everything outside the operators. Make it inside `virtual_time.run`."""

    def __init__(self, sites: tuple[str, ...] = ("a", "b"), kuberay: tuple[str, ...] = ()) -> None:
        """`sites` have a Ray cluster each, and `kuberay` are further ones with KubeRay."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.clusters = {name: RayModel(loop.time, deploy_s=1.0, delete_s=1.0) for name in sites}
        self.kuberay = {name: KubeModel(name, loop.time) for name in kuberay}
        self.down: set[str] = set()
        """Sites and gateways that do not answer, by name; "api" for the API server."""
        self.cut: set[str] = set()
        """Sites that operators do not reach, though gateways do."""
        self.tokens = dict.fromkeys(sites, RAY_TOKEN)
        self.secrets = {f"ray-{name}": RAY_TOKEN for name in sites}
        self.objects: dict[ObjectKey, JsonObject] = {}
        self.history: list[tuple[ObjectKey, JsonObject]] = []
        self.lease: JsonObject | None = None
        self.tables: list[RoutingTable] = []
        self.events: list[str] = []
        self.processes: list[Process] = []
        self.clock_shift = timedelta(0)
        self.watch_is_cut = False
        """The watch is silent: no operator hears of a change."""
        self.probes_until: dict[str, datetime] = {}
        """Gateways report, but have probed nothing since then."""
        self.round_trips: dict[str, float] = {}
        """Seconds to each site, as the gateway measures them now and a little more or less."""
        self.loads: dict[str, dict[str, float]] | None = {}
        """Requests under way by deployment and site, as the gateway tells; None for one that is too old to tell."""
        self.asked: dict[str, datetime] = {}
        """When a client last asked for a deployment."""
        self.noise = 0.0
        """By what share the gateway's figures of the load are more or less."""
        self._version = 0
        self._uids = 0

    # Time

    def now(self) -> datetime:
        """The time of day, which may jump."""
        return BEGIN + timedelta(seconds=self.loop.time() - 1_000.0) + self.clock_shift

    async def wait(self, condition: Callable[[], bool], what: str, limit_s: float = 900.0) -> None:
        """Waits in virtual time; so long in vain is a failure."""
        end = self.loop.time() + limit_s
        while not condition():
            assert self.loop.time() < end, f"waited {limit_s:g} simulated seconds in vain until {what}: {self.shown()}"
            await asyncio.sleep(0.25)

    # Operators

    def start(self, name: str = "operator", trap: Trap | None = None) -> Process:
        """A new operator process, which takes part in the election."""
        process = Process(name, trap)
        process.elector = Elector(
            _SimLease(self, process), LeaseName("system", "operator", name), clock=self.loop.time, wall=self.now
        )
        process.controller = Controller(
            Parts(
                store=_SimStore(self, process),
                fence=process.elector,
                gateways=(GATEWAY,),
                gateway_token=lambda: TOKEN,
                now=self.now,
                clock=self.loop.time,
                connect=lambda _: cast("KubeApi", _SimKube(self, process)),
            )
        )
        self.processes.append(process)
        process.main = asyncio.create_task(self._run(process), name=name)
        return process

    async def _run(self, process: Process) -> None:
        assert process.elector is not None
        assert process.controller is not None
        _process.set(process)
        await process.elector.run(process.controller.lead)

    def leader(self) -> Process | None:
        """Who holds the lease by its own knowledge; there must never be two."""
        leaders = [one for one in self.processes if not one.dead and one.elector and one.elector.epoch() is not None]
        assert len(leaders) < 2, [one.name for one in leaders]
        return leaders[0] if leaders else None

    async def stop(self) -> None:
        """Ends all operators."""
        for process in self.processes:
            process.kill()
        tasks = [process.main for process in self.processes if process.main is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def call(self, process: Process, what: str, effect: Callable[[], T], broken: Callable[[str], Exception]) -> T:
        """One call of a process to the outside. `broken` makes the error that the caller of a failed call sees."""
        self._check(process)
        process.calls.append(what)
        trap = process.trap
        fault = trap.fault if trap is not None and trap.at == len(process.calls) else None
        await asyncio.sleep(max(0.002, process.frozen_until - self.loop.time()))
        self._check(process)
        if trap is not None and fault is not None:
            trap.hit = what
        if fault == "killed before":
            process.kill()
        self._check(process)
        if fault == "fails":
            raise broken(f"injected: {what} failed")
        if fault == "conflict":
            raise Conflict(f"injected: {what} conflicts")
        result = effect()
        if fault == "killed after":
            process.kill()
        self._check(process)
        if fault == "answer lost":
            raise broken(f"injected: the answer of {what} was lost")
        await asyncio.sleep(0.001)
        self._check(process)
        return result

    @staticmethod
    def _check(process: Process) -> None:
        if process.dead:
            raise Dead(process.name)

    # What a user does

    def apply(self, kind: Kind, name: str, spec: JsonObject, namespace: str = "") -> ObjectKey:
        """`kubectl apply`: makes the object, or changes its spec."""
        key = ObjectKey(kind, namespace, name)
        old = self.objects.get(key)
        if old is None:
            self._uids += 1
            metadata = {
                "name": name,
                "uid": f"uid-{self._uids}-{name}",
                "generation": 1,
                "creationTimestamp": _stamp(self.now()),
                **({"namespace": namespace} if namespace else {}),
            }
            made: JsonObject = {
                "apiVersion": "serving.autoglm.dev/v1alpha1",
                "kind": kind,
                "metadata": metadata,
                "spec": spec,
            }
            self._put(key, made)
        elif old["spec"] != spec:
            made = copy.deepcopy(old)
            made["spec"] = spec
            made["metadata"]["generation"] += 1
            self._put(key, made)
        return key

    def apply_site(self, name: str, **spec: Any) -> ObjectKey:
        """A site for one of the clusters."""
        ray = {
            "address": f"http://{name}.example:8265",
            "serveAddresses": [f"http://{name}.example:8000"],
            "tokenSecret": {"namespace": "system", "name": f"ray-{name}"},
        }
        made = {"kubeRay": {"namespace": name, "image": "registry.example/autoglm-serving:1"}}
        backend = made if name in self.kuberay else {"ray": ray}
        return self.apply(SITE, name, {"backend": backend, **spec})

    def apply_deployment(self, name: str = "phones", **spec: Any) -> ObjectKey:
        """A deployment of the tiny model."""
        model = {"name": f"autoglm-{name}", "uri": "builtin://autoglm-tiny"}
        return self.apply(DEPLOYMENT, name, {"model": model, **spec}, "team")

    def delete(self, key: ObjectKey) -> None:
        """`kubectl delete --wait=false`."""
        found = copy.deepcopy(self.objects[key])
        found["metadata"].setdefault("deletionTimestamp", _stamp(self.now()))
        self._put(key, found)

    def edit(self, key: ObjectKey, change: Callable[[JsonObject], None]) -> None:
        """Somebody else writes into a stored object."""
        found = copy.deepcopy(self.objects[key])
        change(found)
        self._put(key, found)

    def reconnect(self) -> None:
        """The watch is there again, and names every object once."""
        self.watch_is_cut = False
        for key in self.objects:
            self._tell(key)

    # Looking

    def status(self, key: ObjectKey) -> JsonObject:
        """The status of a stored object."""
        return dict((self.objects.get(key) or {}).get("status") or {})

    def condition(self, key: ObjectKey, kind: str = "Ready") -> tuple[str, str]:
        """Status and reason of a condition about the present generation."""
        found = self.objects.get(key)
        for one in self.status(key).get("conditions") or ():
            if found and one["type"] == kind and one["observedGeneration"] == found["metadata"]["generation"]:
                return one["status"], one["reason"]
        return "", ""

    def is_ready(self, key: ObjectKey) -> bool:
        """Whether the present spec is Ready."""
        return self.condition(key)[0] == "True"

    def routes(self) -> dict[str, list[str]]:
        """Sites of each deployment in the gateway's table."""
        if not self.tables:
            return {}
        return {route.deployment: sorted(end.site for end in route.endpoints) for route in self.tables[-1].routes}

    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each application at each site, without those that are going."""
        places: dict[str, RayModel | KubeModel] = {**self.clusters, **self.kuberay}
        return {
            site: {name: dict(one.config or {}) for name, one in place.applications.items() if one.status != "DELETING"}
            for site, place in places.items()
        }

    def shown(self) -> str:
        """The world in words, for a failure."""
        return json.dumps(
            {
                "statuses": {str(key): found.get("status") for key, found in self.objects.items()},
                "applications": {site: sorted(apps) for site, apps in self.configs().items()},
                "routes": self.routes(),
            },
            indent=1,
            default=str,
        )

    # The API server

    def _put(self, key: ObjectKey, made: JsonObject) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)
        if "deletionTimestamp" in made["metadata"] and not made["metadata"].get("finalizers"):
            self.objects.pop(key, None)
        else:
            self.objects[key] = made
        self.history.append((key, copy.deepcopy(made)))
        if not self.watch_is_cut:
            self._tell(key)

    def _tell(self, key: ObjectKey) -> None:
        for process in self.processes:
            if not process.dead and process.controller is not None:
                found = self.objects.get(key)
                process.controller.wake(key, found["metadata"]["generation"] if found else None)


class _SimStore:
    """The `Store` of one operator."""

    complete = True

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def identity(self) -> str | None:
        return "simulated-cluster"

    async def list_all(self, kind: Kind) -> tuple[JsonObject, ...]:
        def effect() -> tuple[JsonObject, ...]:
            return tuple(copy.deepcopy(found) for key, found in self._world.objects.items() if key.kind == kind)

        return await self._call(f"list {kind}", effect)

    async def get(self, key: ObjectKey) -> JsonObject | None:
        return await self._call(f"get {key}", lambda: copy.deepcopy(self._world.objects.get(key)))

    async def patch_status(self, seen: JsonObject, kind: Kind, status: JsonObject) -> None:
        def effect() -> None:
            found = self._current(seen, kind)
            if found.get("status") != status:
                found["status"] = json.loads(json.dumps(status))
                self._world._put(ObjectKey.of(kind, seen), found)

        await self._write(f"status of {ObjectKey.of(kind, seen)}", effect)

    async def set_finalizers(self, seen: JsonObject, kind: Kind, finalizers: tuple[str, ...]) -> JsonObject:
        def effect() -> JsonObject:
            found = self._current(seen, kind)
            found["metadata"]["finalizers"] = list(finalizers)
            self._world._put(ObjectKey.of(kind, seen), found)
            return copy.deepcopy(found)

        return await self._write(f"finalizers of {ObjectKey.of(kind, seen)}", effect)

    async def record_event(self, about: JsonObject, kind: Kind, event: Event, now: datetime) -> None:
        try:
            await self._write("event", lambda: self._world.events.append(f"{event.reason}: {event.message}"))
        except NotLeading:
            raise
        except StoreError:
            return

    async def secret(self, namespace: str, name: str, key: str) -> str | None:
        return await self._call(f"secret {name}", lambda: self._world.secrets.get(name))

    async def _write(self, what: str, effect: Callable[[], T]) -> T:
        fence = self._process.elector
        assert fence is not None
        if fence.epoch() is None:
            raise NotLeading("not the leader")
        return await self._call(what, effect)

    async def _call(self, what: str, effect: Callable[[], T]) -> T:
        return await _api_call(self._world, self._process, what, effect)

    def _current(self, seen: JsonObject, kind: Kind) -> JsonObject:
        found = copy.deepcopy(self._world.objects.get(ObjectKey.of(kind, seen)))
        if found is None:
            raise NotFound("it is gone")
        if any(found["metadata"][name] != seen["metadata"][name] for name in ("uid", "resourceVersion")):
            raise Conflict("it changed")
        return found


class _SimKube:
    """The API of the Kubernetes cluster of the sites with KubeRay, each in the namespace of its name."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def request(self, call: Call) -> JsonObject:
        if call.path.startswith("/api/v1/"):
            return await _api_call(self._world, self._process, f"GET {call.path}", lambda: {"items": []})
        site = call.path.split("/")[5]
        if call.method != "GET":
            fence = self._process.elector
            assert fence is not None
            if fence.epoch() is None:
                raise NotLeading("not the leader")
        return await _api_call(
            self._world, self._process, f"{call.method} {call.path}", lambda: self._reached(site, call)
        )

    def _reached(self, site: str, call: Call) -> JsonObject:
        if site in self._world.down | self._world.cut:
            raise StoreError(f"no route to {site}")
        if site not in self._world.kuberay:
            raise NotFound(f"there is nothing at {call.path}")
        return self._world.kuberay[site].request(call)

    def close(self) -> None:
        """There is nothing to close."""


class _SimLease:
    """The Lease, as one process reaches it."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def read(self) -> JsonObject | None:
        return await self._call("read the lease", lambda: copy.deepcopy(self._world.lease))

    async def create(self, body: JsonObject) -> JsonObject:
        return await self._call("create the lease", lambda: self._store(body, None))

    async def replace(self, body: JsonObject) -> JsonObject:
        version = body["metadata"].get("resourceVersion")
        return await self._call("renew the lease", lambda: self._store(body, version))

    async def _call(self, what: str, effect: Callable[[], T]) -> T:
        return await _api_call(self._world, self._process, what, effect)

    def _store(self, body: JsonObject, version: str | None) -> JsonObject:
        stored = self._world.lease
        if (stored["metadata"]["resourceVersion"] if stored else None) != version:
            raise Conflict("the lease changed")
        made = copy.deepcopy(body)
        made["metadata"]["resourceVersion"] = str(int(version or 0) + 1)
        self._world.lease = made
        return copy.deepcopy(made)


async def _api_call(world: World, process: Process, what: str, effect: Callable[[], T]) -> T:
    def reached() -> T:
        if "api" in world.down:
            raise StoreError("the API server does not answer")
        return effect()

    return await world.call(process, what, reached, StoreError)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def wired(world: World) -> Iterator[None]:
    """Ray clients and gateway clients send to this world."""

    async def send(
        self: RayServeClient, method: str, path: str, body: Any, credentials: Credentials
    ) -> tuple[int, bytes]:
        site = (urlsplit(self.address.url).hostname or "").partition(".")[0]
        return await world.call(
            _process.get(),
            f"{method} {path} at {site}",
            lambda: _ray(world, site, method, path, body, credentials.token),
            lambda text: SiteFailure("Unreachable", text),
        )

    async def gateway(self: GatewayClient, method: str, path: str, body: Any) -> tuple[int, bytes]:
        return await world.call(
            _process.get(), f"{method} {path}", lambda: _gateway(world, method, path, body), GatewayFailed
        )

    with patch.object(RayServeClient, "_send", send), patch.object(GatewayClient, "_send", gateway):
        yield


def _ray(world: World, site: str, method: str, path: str, body: Any, token: str | None) -> tuple[int, bytes]:
    if site in world.down | world.cut or site not in world.clusters:
        raise SiteFailure("Unreachable", f"no route to {site}")
    if token != world.tokens[site]:
        return (403 if token else 401), b"Unauthorized"
    cluster = world.clusters[site]
    if method == "PUT":
        cluster.put(body["applications"])
        return 200, b""
    if path == "/api/version":
        return 200, b'{"ray_version": "2.60.0"}'
    return 200, json.dumps(cluster.figures()).encode() if path == "/api/cluster_status" else cluster.get()


def _gateway(world: World, method: str, path: str, body: Any) -> tuple[int, bytes]:
    if "gateway" in world.down:
        raise GatewayFailed("the gateway does not answer")
    held = world.tables[-1] if world.tables else None
    if method == "PUT":
        table = verify(SignedTable.model_validate(body), TOKEN.encode())
        if held is not None and table.generation < held.generation:
            return 409, b'{"error": {"message": "it has a newer table"}}'
        world.tables.append(table)
        held = table
    elif path == "/v1/routing-table":
        return (200, sign(held, TOKEN.encode()).model_dump_json(by_alias=True).encode()) if held else (404, b"{}")
    report = GatewayReport(
        table_epoch=held.epoch if held else 0,
        table_version=held.version if held else 0,
        admissions=tuple(_admissions(world, held)) if held else (),
        started_at=BEGIN,
        links=tuple(_links(world)),
        loads=None if world.loads is None else tuple(_loads(world, world.loads)),
        revisions=tuple(_revisions(world, held)) if held else (),
    )
    return 200, report.model_dump_json(by_alias=True).encode()


def _loads(world: World, loads: dict[str, dict[str, float]]) -> Iterator[LoadReport]:
    for name in loads.keys() | world.asked.keys():
        asked = world.asked.get(name)
        yield LoadReport(
            deployment=name,
            asked_s=None if asked is None else max((world.now() - asked).total_seconds(), 0.0),
            sites=tuple(
                SiteLoadReport(site=site, in_flight=count * random.uniform(1 - world.noise, 1 + world.noise))
                for site, count in loads.get(name, {}).items()
            ),
        )


def _links(world: World) -> Iterator[LinkReport]:
    for site, seconds in world.round_trips.items():
        if site not in world.down:
            more_or_less = random.uniform(0.9, 1.1)
            yield LinkReport(
                site=site, rtt_s=seconds * more_or_less, bandwidth_bps=8e6 / more_or_less, observed_at=world.now()
            )


def _admissions(world: World, table: RoutingTable) -> Iterator[Admission]:
    for route in table.routes:
        yield from (_admission(world, route, end, route.revision) for end in route.endpoints)
        if route.canary is not None:
            yield from (_admission(world, route, end, route.canary.revision) for end in route.canary.endpoints)


def _admission(world: World, route: Route, end: Endpoint, wanted: str) -> Admission:
    cluster = world.clusters.get(end.site) or world.kuberay.get(end.site)
    serving = None
    if end.site not in world.down and cluster is not None:
        serving = cluster.serving(end.url.rpartition("/")[2])
    return Admission(
        deployment=route.deployment,
        site=end.site,
        revision=serving or "",
        state="Admitted" if serving else "Probing",
        message="",
        observed_at=world.probes_until.get(end.site, world.now()),
        wanted=wanted,
    )


def _revisions(world: World, table: RoutingTable) -> Iterator[RevisionReport]:
    """What the gateway applies: a canary that does not answer gets nothing."""
    for route in table.routes:
        canary = route.canary
        if canary is None:
            continue
        answers = any(
            _admission(world, route, end, canary.revision).revision == canary.revision for end in canary.endpoints
        )
        weight = canary.weight if answers else 0
        shares = ((route.revision, 100 - weight, "stable"), (canary.revision, weight, "canary"))
        for revision, share, role in shares:
            told = {"deployment": route.deployment, "revision": revision, "role": role, "weight": share}
            yield RevisionReport.model_validate({**told, "window": canary.window})
