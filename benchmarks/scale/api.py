"""Calls of the API server as its administrator, what a watch saw, and what a process keeps in memory."""

import http.client
import json
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scale.helper import Helper

from support.kubernetes import ControlPlane

WRITES = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
# Every process that may lead renews its Lease, and the API server its own: they are counted apart.
_LEASES = ("leases PUT", "leases POST")

Json = dict[str, Any]
Generation = tuple[str, int]
"""An object's name and its generation."""


class Client:
    """Calls of the API server as its administrator, with one connection for each thread."""

    def __init__(self, plane: ControlPlane) -> None:
        self._port = int(plane.url.rpartition(":")[2])
        self._tls = ssl.create_default_context(cafile=str(plane.ca_file))
        self._headers = {"Authorization": f"Bearer {plane.token}", "Accept": "application/json"}
        self._own = threading.local()

    def connect(self, timeout: float | None = 600.0) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=timeout)

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

    def events(self, path: str) -> Iterator[Json]:
        """What a watch tells of the objects at a path, those that are there first."""
        found = json.loads(self.request("GET", path))
        for one in found["items"]:
            yield {"type": "ADDED", "object": one}
        version = found["metadata"]["resourceVersion"]
        path += f"?watch=true&resourceVersion={version}&timeoutSeconds=36000"
        while True:
            connection = self.connect(timeout=None)  # nothing may happen for long
            connection.request("GET", path, None, self._headers)
            answer = connection.getresponse()
            if answer.status != http.client.TOO_MANY_REQUESTS:  # what it says while it gets to know a new kind
                break
            connection.close()
            time.sleep(1.0)
        assert answer.status == http.client.OK, (path, answer.status, answer.read(500))
        for line in answer:
            yield json.loads(line)

    def writes(self) -> Counter[str]:
        """Requests that write, so far, by resource and verb, as the API server counts them, without those of Leases."""
        found: Counter[str] = Counter()
        for line in self.request("GET", "/metrics").decode().splitlines():
            if not line.startswith("apiserver_request_total{"):
                continue
            labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.rindex("}")].split(","))
            verb, resource = labels["verb"].strip('"'), labels["resource"].strip('"')
            if verb in WRITES and f"{resource} {verb}" not in _LEASES:
                found[f"{resource} {verb}"] += int(float(line.rpartition(" ")[2]))
        return found


@dataclass
class Watcher:
    """Notes when each object's status spoke of its present generation, and when it was Ready."""

    client: Client
    path: str
    seen: dict[Generation, float] = field(default_factory=dict)
    ready: dict[Generation, float] = field(default_factory=dict)
    last_event: float = 0.0

    def start(self) -> Helper:
        """Watches from now on, in the thread that is returned."""
        return Helper(f"the watch of {self.path}", self._watch)

    def _watch(self) -> None:
        for event in self.client.events(self.path):
            now = self.last_event = time.monotonic()
            found = event["object"]
            status, generation = found.get("status") or {}, found["metadata"].get("generation", 0)
            if status.get("observedGeneration") != generation:
                continue
            key = (found["metadata"]["name"], generation)
            self.seen.setdefault(key, now)
            for one in status.get("conditions") or ():
                if (one["type"], one["status"]) == ("Ready", "True"):
                    self.ready.setdefault(key, now)


def resident_mib(pid: int) -> float:
    """What a process keeps in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
