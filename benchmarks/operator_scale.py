"""How the operator bears many deployments: 10, 100 and 1,000 of them over 100 sites, on a real etcd and kube-apiserver.

The Ray clusters and the gateway are simulated by one other process (`support.ray_farm`), so that what is measured is the
operator, its calls and its API server. `AUTOGLM_SCALE=10,50` chooses other numbers, `AUTOGLM_SCALE_STEADY=300` the seconds
of the steady phase.
"""

import http.client
import json
import os
import random
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, quantile, table

from support import manifests, ray_farm
from support.kubernetes import ROOT, ControlPlane
from support.operator import ACCOUNT, SYSTEM, OperatorProcess, right_to_read
from support.ports import free_port
from support.processes import Process

SIZES = tuple(int(size) for size in os.environ.get("AUTOGLM_SCALE", "10,100,1000").split(","))
STEADY_S = float(os.environ.get("AUTOGLM_SCALE_STEADY", "60"))
SITES = 100
SITES_EACH = 2
CHANGES = 50
CLIENTS = 4
QUIET_S = 10.0
DEADLINE_S = 1800.0
NAMESPACE, SECRET = "scale", "farm"
SCOPE = ("--all-namespaces", "--lease-duration", "15")
GROUP = "/apis/serving.autoglm.dev/v1alpha1"
DEPLOYMENTS = f"{GROUP}/namespaces/{NAMESPACE}/autoglmdeployments"
WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})

Json = dict[str, Any]


class Client:
    """Calls of the API server as its administrator, with one connection for each thread."""

    def __init__(self, plane: ControlPlane) -> None:
        self._port = int(plane.url.rpartition(":")[2])
        self._tls = ssl.create_default_context(cafile=str(plane.ca_file))
        self._headers = {"Authorization": f"Bearer {plane.token}", "Accept": "application/json"}
        self._own = threading.local()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=600)

    def request(self, method: str, path: str, body: Json | None = None) -> bytes:
        used_at: float = getattr(self._own, "used_at", 0.0)
        if time.monotonic() - used_at > 5.0:  # the API server closes connections that nobody uses
            self._own.connection = self.connect()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body).encode()
        self._own.connection.request(method, path, data, {**self._headers, "Content-Type": kind})
        answer = self._own.connection.getresponse()
        text: bytes = answer.read()
        self._own.used_at = time.monotonic()
        assert answer.status < 300, (method, path, answer.status, text[:500])
        return text

    def lines(self, path: str) -> Iterator[bytes]:
        connection = self.connect()
        connection.request("GET", path, headers=self._headers)
        yield from connection.getresponse()

    def writes(self) -> Counter[str]:
        """Requests that write, so far, by resource and verb, as the API server counts them; the Lease apart."""
        found: Counter[str] = Counter()
        for line in self.request("GET", "/metrics").decode().splitlines():
            if not line.startswith("apiserver_request_total{"):
                continue
            labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.rindex("}")].split(","))
            verb, resource = labels["verb"].strip('"'), labels["resource"].strip('"')
            if verb in WRITES:
                found[f"{resource} {verb}"] += int(float(line.rpartition(" ")[2]))
        return found


@dataclass
class Watcher:
    """Notes when each deployment's status spoke of its present generation, and when it was Ready."""

    client: Client
    seen: dict[tuple[str, int], float] = field(default_factory=dict)
    ready: dict[tuple[str, int], float] = field(default_factory=dict)
    last_event: float = 0.0

    def start(self) -> None:
        version = json.loads(self.client.request("GET", DEPLOYMENTS))["metadata"]["resourceVersion"]
        threading.Thread(target=self._watch, args=(version,), daemon=True).start()

    def _watch(self, version: str) -> None:
        path = f"{DEPLOYMENTS}?watch=true&resourceVersion={version}&timeoutSeconds=36000"
        for line in self.client.lines(path):
            now = self.last_event = time.monotonic()
            found = json.loads(line)["object"]
            status, generation = found.get("status") or {}, found["metadata"].get("generation", 0)
            if status.get("observedGeneration") != generation:
                continue
            key = (found["metadata"]["name"], generation)
            self.seen.setdefault(key, now)
            for one in status.get("conditions") or ():
                if (one["type"], one["status"]) == ("Ready", "True"):
                    self.ready.setdefault(key, now)


@dataclass
class Usage:
    """What a process has used so far."""

    pid: int

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Bench:
    """The control plane with sites on the farm, and an operator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plane = ControlPlane(folder / "kubernetes")
        self.farm_port, self.gateway_port = free_port(), free_port()
        self.token, self.gateway_token = "farm-token", "gateway-token"
        command = [sys.executable, "-m", "support.ray_farm", str(self.farm_port), str(self.gateway_port)]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path), **ray_farm.environment(self.token, self.gateway_token)}
        self.farm = Process("farm", command, log=folder / "farm.log", env=environment)
        self.operators = 0
        self.operator: OperatorProcess

    def open(self) -> None:
        self.plane.start()
        self.client = Client(self.plane)
        self.farm.start()
        self.farm.wait_for(lambda: self._report() is not None, "it listens")
        self.plane.kubectl("apply", "-f", str(ROOT / "config/rbac/operator.yaml"))
        self.kubeconfig = self.plane.service_account_kubeconfig(SYSTEM, ACCOUNT)
        self.plane.kubectl("create", "namespace", NAMESPACE)
        self.plane.apply(*_secret(self.token), *(self._site(number) for number in range(SITES)))
        self.watcher = Watcher(self.client)
        self.watcher.start()

    def close(self) -> None:
        if hasattr(self, "operator"):
            self.operator.process.terminate()
        self.farm.terminate()
        self.plane.stop()

    def start_operator(self) -> None:
        token_file = self.folder / "token"
        token_file.write_text(self.gateway_token)
        gateway = ["--gateway", f"http://127.0.0.1:{self.gateway_port}", "--gateway-token-file", str(token_file)]
        name = f"operator-{self.operators}"
        self.operators += 1
        self.operator = OperatorProcess(name, self.folder, self.kubeconfig, [*SCOPE, *gateway])
        self.operator.process.start()

    def _site(self, number: int) -> Json:
        host = ray_farm.host(number)
        backend = manifests.ray(
            address=f"http://{host}:{self.farm_port}",
            serveAddresses=[f"http://{host}:8000"],
            tokenSecret={"namespace": NAMESPACE, "name": SECRET},
        )
        return manifests.site(f"site-{number}", backend={"ray": backend})

    def _report(self) -> Json | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway_port, timeout=30)
        try:
            connection.request("GET", "/v1/report", headers={"Authorization": f"Bearer {self.gateway_token}"})
            found: Json = json.loads(connection.getresponse().read())
        except OSError:
            return None
        finally:
            connection.close()
        return found

    def epoch(self) -> int:
        found = self._report()
        return int(found["tableEpoch"]) if found else 0

    def quiet(self) -> None:
        """Until no object changed for a while."""
        self.until(lambda: time.monotonic() - self.watcher.last_event > QUIET_S, "nothing changes any more")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.operator.process.running, self.operator.process.log_tail()
            assert time.monotonic() < deadline, f"waited in vain until {what}\n{self.operator.process.log_tail()}"
            time.sleep(0.1)


def _secret(token: str) -> tuple[Json, ...]:
    metadata = {"name": SECRET, "namespace": NAMESPACE}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"token": token}}
    return secret, *right_to_read(SECRET, NAMESPACE)


def _deployment(number: int, dice: random.Random) -> Json:
    sites = [f"site-{site}" for site in sorted(dice.sample(range(SITES), SITES_EACH))]
    model = {"name": f"model-{number}", "uri": "builtin://autoglm-tiny"}
    made = manifests.deployment(f"scale-{number}", model=model, sites={"names": sites})
    made["metadata"]["namespace"] = NAMESPACE
    return made


def burst(bench: Bench, first: int, last: int) -> list[list[str]]:
    """Creates deployments as fast as four clients can, and waits until all of them are Ready."""
    dice, applied = random.Random(first), {}
    made = [_deployment(number, dice) for number in range(first, last)]
    usage = Usage(bench.operator.process.pid)
    cpu = usage.cpu_s()

    def create(manifest: Json) -> None:
        applied[(manifest["metadata"]["name"], 1)] = time.monotonic()
        bench.client.request("POST", DEPLOYMENTS, manifest)

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(create, made))
    created = time.monotonic() - begun
    bench.until(lambda: applied.keys() <= bench.watcher.ready.keys(), "all are Ready")
    total = max(bench.watcher.ready[key] for key in applied) - begun
    bench.quiet()
    return [
        ["created one by one by four clients in", f"{last - first} in {created:.1f} s"],
        ["created to first status, p50 / p99", _spread(applied, bench.watcher.seen)],
        ["created to Ready, p50 / p99", _spread(applied, bench.watcher.ready)],
        ["all Ready after", f"{total:.1f} s"],
        ["operator's CPU for that", f"{usage.cpu_s() - cpu:.1f} s"],
    ]


def changes(bench: Bench, size: int) -> list[list[str]]:
    """Changes deployments one after the other while nothing else happens."""
    dice, applied = random.Random(size), {}
    for number in dice.sample(range(size), min(CHANGES, size)):
        name = f"scale-{number}"
        generation = max(found for known, found in bench.watcher.seen if known == name) + 1
        applied[(name, generation)] = time.monotonic()
        bench.client.request("PATCH", f"{DEPLOYMENTS}/{name}", {"spec": {"routing": {"retries": 3 + generation % 2}}})
        bench.until(lambda key=(name, generation): key in bench.watcher.seen, f"{name} is seen")  # type: ignore[misc]
        time.sleep(0.05)
    bench.until(lambda: applied.keys() <= bench.watcher.ready.keys(), "all are Ready")
    bench.quiet()
    return [
        ["apply to status, p50 / p99", _spread(applied, bench.watcher.seen)],
        ["apply to Ready, p50 / p99", _spread(applied, bench.watcher.ready)],
    ]


def steady(bench: Bench) -> list[list[str]]:
    """Nothing is changed by anybody."""
    usage = Usage(bench.operator.process.pid)
    cpu, before, begun = usage.cpu_s(), bench.client.writes(), time.monotonic()
    time.sleep(STEADY_S)
    took = time.monotonic() - begun
    written = bench.client.writes() - before
    leases = written.pop("leases PUT", 0)
    return [
        [f"writes in {took:.0f} s, without the Lease", _told(written)],
        ["writes of the Lease", f"{leases}"],
        ["operator's CPU", f"{(usage.cpu_s() - cpu) / took * 100:.1f} % of a core"],
        ["operator's memory", f"{usage.resident_mib():.0f} MiB"],
    ]


def restart(bench: Bench) -> list[list[str]]:
    """The operator ends in order, and another one starts."""
    epoch, before = bench.epoch(), bench.client.writes()
    bench.operator.process.terminate(grace=60)
    begun = time.monotonic()
    bench.start_operator()
    bench.until(lambda: bench.operator.role() == "leading", "it leads")
    leads = time.monotonic() - begun
    bench.until(lambda: bench.epoch() > epoch, "the gateway has a table with all deployments")
    told = time.monotonic() - begun
    time.sleep(QUIET_S)
    written = bench.client.writes() - before
    written.pop("leases PUT", 0)
    return [
        ["restart: leads after", f"{leads:.1f} s"],
        ["restart: all observed, decided and told to the gateway after", f"{told:.1f} s"],
        ["restart: writes, without the Lease", _told(written)],
    ]


def _told(written: Counter[str]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in written.most_common() if count)
    return f"{sum(written.values())} ({parts})" if parts else "0"


def _spread(applied: dict[tuple[str, int], float], reached: dict[tuple[str, int], float]) -> str:
    times = sorted(reached[key] - then for key, then in applied.items())
    return f"{statistics.median(times):.2f} / {quantile(times, 0.99):.2f} s"


@contextmanager
def opened() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        # Compiled modules are kept between the starts of the operator, as in an image.
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=f"{name}/compiled")
        bench = Bench(Path(name))
        try:
            bench.open()
            yield bench
        finally:
            bench.close()


def main() -> None:
    machine = describe()
    columns: list[list[list[str]]] = []
    with opened() as bench:
        bench.start_operator()
        bench.until(lambda: bench.operator.role() == "leading", "it leads")
        present = 0
        for size in SIZES:
            rows = burst(bench, present, size)
            present = size
            rows += changes(bench, size) + steady(bench) + restart(bench)
            columns.append(rows)
            print(f"{size}: {rows}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print(f"{machine}; {SITES} sites, each deployment at {SITES_EACH} of them, {CLIENTS} clients create\n")
    names = [row[0] for row in columns[0]]
    lines = [[name, *(rows[number][1] for rows in columns)] for number, name in enumerate(names)]
    print(table(["deployments", *map(str, SIZES)], lines))


if __name__ == "__main__":
    main()
