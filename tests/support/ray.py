"""A real Ray cluster for tests, its Serve REST API, and the processes of its replicas."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoglm_operator.local.ray_head import RayHead
from autoglm_serving.config import AppConfig
from support.processes import family, pid_inside, title
from support.reaper import reaper

IMPORT_PATH = "autoglm_serving.app:build"
SCRIPTED_IMPORT_PATH = "support.scripted_app:build"
DEADLINE_S = 180.0
POLL_S = 0.2
TESTS = Path(__file__).resolve().parent.parent


class RayCluster:
    """One Ray head for the whole test run. Each test deploys applications under names of its own and deletes them."""

    def __init__(self, state_dir: Path, num_cpus: int = 16) -> None:
        """`num_cpus` is what Ray may hand out, not what the machine has: replicas of tests are mostly idle."""
        self.head = RayHead(state_dir, num_cpus)
        self._watched: int | None = None

    def start(self) -> None:
        """Start it, also after `kill`: the addresses stay the same."""
        self.head.start()
        self._watched = self.head.pid
        if self._watched is not None:
            reaper().watch(self._watched)

    def stop(self) -> None:
        self.head.stop()
        self._forget()

    def kill(self) -> None:
        """End the head and everything on it at once."""
        self.head.kill()
        self._forget()

    def _forget(self) -> None:
        if self._watched is not None:
            reaper().forget(self._watched)
            self._watched = None

    @property
    def address(self) -> str:
        return self.head.address

    @property
    def serve_address(self) -> str:
        return self.head.serve_address

    @property
    def token(self) -> str:
        return self.head.token

    def serve_logs(self, pattern: str) -> list[Path]:
        """Serve's own logs whose names match: of its controller, its proxies and the replicas."""
        assert self.head.temp_dir is not None
        return list((self.head.temp_dir / "session_latest/logs/serve").glob(pattern))

    def deploy(self, *applications: dict[str, Any], wait: bool = True) -> None:
        """Add or change applications; those already there stay as they are. Waits until all are RUNNING."""
        names = {each["name"] for each in applications}
        others = [each for name, each in self.configs().items() if name not in names]
        self._put([*others, *applications])
        if wait:
            for name in names:
                self.wait_running(name)

    def delete(self, *names: str, wait: bool = True) -> None:
        """Delete applications and wait until they are gone."""
        self._put([each for name, each in self.configs().items() if name not in names])
        for name in names if wait else ():
            self.wait_for(name, lambda app: app is None, "is gone")

    def wait_running(self, name: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Details of the application once it is RUNNING; fails at once when it cannot be."""

        def running(app: dict[str, Any] | None) -> bool:
            if app is not None and app["status"] == "DEPLOY_FAILED":
                raise AssertionError(f"{name} failed to deploy: {app['message']}")
            return app is not None and app["status"] == "RUNNING"

        app = self.wait_for(name, running, "is RUNNING", deadline_s)
        assert app is not None
        return app

    def wait_for(
        self,
        name: str,
        condition: Callable[[dict[str, Any] | None], bool],
        what: str,
        deadline_s: float = DEADLINE_S,
    ) -> dict[str, Any] | None:
        """Details of the application once `condition` holds for them; None when there is no such application."""
        end = time.monotonic() + deadline_s
        app: dict[str, Any] | None = None
        while time.monotonic() < end:
            app = self.details()["applications"].get(name)
            if condition(app):
                return app
            time.sleep(POLL_S)
        seen = "not there" if app is None else f"{app['status']}: {app['message']}"
        raise AssertionError(f"waited {deadline_s:.0f} s in vain until {name} {what}; it is {seen}")

    def details(self) -> dict[str, Any]:
        """What the Serve REST API says about everything."""
        answer = self._http("GET", "/api/serve/applications/")
        assert isinstance(answer, dict)
        return answer

    def configs(self) -> dict[str, dict[str, Any]]:
        """The applications as they were deployed, by name."""
        applications = self.details()["applications"]
        return {name: app["deployed_app_config"] for name, app in applications.items() if app["deployed_app_config"]}

    def running_replicas(self, name: str, deployment: str = "Engine") -> list[str]:
        """Ids of the running replicas."""
        return [each["replica_id"] for each in self._running(name, deployment)]

    def replica_ids(self, name: str, deployment: str = "Engine") -> set[str]:
        """Ids of the replicas in any state; empty while Serve has no controller to ask."""
        try:
            app = self.details()["applications"].get(name)
        except AssertionError:
            return set()
        replicas = app["deployments"].get(deployment, {"replicas": []})["replicas"] if app else []
        return {each["replica_id"] for each in replicas}

    def metrics(self, name: str) -> dict[str, float]:
        """What the cluster tells Prometheus about an application, by metric: sums over its processes and other labels."""
        found: dict[str, float] = defaultdict(float)
        for line in self.prometheus().splitlines():
            metric, _, value = line.rpartition(" ")
            if f'application="{name}"' in metric:
                found[metric.partition("{")[0]] += float(value)
        return dict(found)

    def prometheus(self) -> str:
        """All that the cluster tells Prometheus."""
        targets = [each for group in self._http("GET", "/api/prometheus/sd") for each in group["targets"]]
        return "".join(_read(f"http://{target}/metrics").decode() for target in targets)

    def processes(self, name: str, deployment: str = "Engine") -> list[int]:
        """Process ids of the running replicas, as this process sees them: Ray may count in a namespace of its own."""
        root = self.head.pid
        assert root is not None
        inside = {each["pid"] for each in self._running(name, deployment)}
        return [pid for pid in family(root)[1:] if pid_inside(pid) in inside]

    def actors(self, work: str) -> list[int]:
        """Process ids of the actors that run a method now, such as "Rank.run", as this process sees them."""
        root = self.head.pid
        assert root is not None
        return [pid for pid in family(root)[1:] if title(pid) == f"ray::{work}"]

    def serve_controllers(self) -> list[int]:
        """Process ids of Serve's controller, as this process sees them: one, but while it is made anew."""
        return self._titled("ray::ServeController")

    def serve_proxies(self) -> list[int]:
        """Process ids of Serve's HTTP proxies: one for each node, but while one is made anew."""
        return self._titled("ray::ProxyActor")

    def _titled(self, begin: str) -> list[int]:
        root = self.head.pid
        assert root is not None
        return [pid for pid in family(root)[1:] if title(pid).startswith(begin)]

    def _running(self, name: str, deployment: str) -> list[dict[str, Any]]:
        app = self.details()["applications"].get(name)
        replicas = app["deployments"].get(deployment, {"replicas": []})["replicas"] if app else []
        return [each for each in replicas if each["state"] == "RUNNING"]

    def kill_replica(self, name: str, deployment: str = "Engine") -> int:
        """SIGKILL one replica; answers with its process id once it is gone."""
        pid = self.processes(name, deployment)[0]
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + DEADLINE_S
        while _alive(pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert not _alive(pid)
        return pid

    def _put(self, applications: list[dict[str, Any]]) -> None:
        details = self.details()
        body = {key: details[key] for key in ("proxy_location", "http_options") if details.get(key)}
        self._http("PUT", "/api/serve/applications/", {**body, "applications": applications})

    def _http(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )
        try:
            data = _read(request)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
        return json.loads(data) if data else None


def application(
    config: AppConfig, *, name: str | None = None, replicas: int | None = None, scripted: bool = False
) -> dict[str, Any]:
    """The Serve schema of one application. `scripted`: with support.scripted_engine in place of a model."""
    name = name or unique_name()
    schema: dict[str, Any] = {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": SCRIPTED_IMPORT_PATH if scripted else IMPORT_PATH,
        "args": config.model_dump(mode="json", by_alias=True),
    }
    if replicas is not None:
        schema["deployments"] = [{"name": "Engine", "num_replicas": replicas}]
    if scripted:
        schema["runtime_env"] = {"env_vars": {"PYTHONPATH": str(TESTS)}}
    return schema


def _read(request: urllib.request.Request | str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=DEADLINE_S) as answer:
        data: bytes = answer.read()
    return data


def unique_name() -> str:
    """A name for an application that no other test uses."""
    return f"test.{uuid.uuid4().hex[:10]}"


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
