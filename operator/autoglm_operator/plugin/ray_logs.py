"""The logs of a deployment's replicas at a Ray cluster, from the API of its dashboard."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 20.0
LIMIT = 8 * 1024 * 1024


class RayUnreachable(Exception):
    """The dashboard did not answer as it should. The message is for people; no secret is in it."""


@dataclass(frozen=True)
class Dashboard:
    """Where it is, and what opens it."""

    address: str
    token: str | None = None
    ca: str | None = None


@dataclass(frozen=True)
class Replica:
    """One replica of a Serve application, and where its log lies."""

    name: str
    node: str
    file: str


def replicas(document: Mapping[str, Any], uid: str) -> tuple[Replica, ...]:
    """The replicas of all applications of one deployment, which carry its uid, in Serve's document."""
    return tuple(sorted(_replicas(document, uid), key=lambda replica: replica.name))


def _replicas(document: Mapping[str, Any], uid: str) -> Iterator[Replica]:
    for name, details in (document.get("applications") or {}).items():
        config = details.get("deployed_app_config") or {}
        if (config.get("args") or {}).get("uid") != uid:
            continue
        for part, deployment in (details.get("deployments") or {}).items():
            for found in deployment.get("replicas") or ():
                if found.get("node_id") and found.get("log_file_path"):
                    short = f"{name}/{part}/{str(found.get('replica_id', ''))[-8:]}"
                    yield Replica(short, found["node_id"], found["log_file_path"].lstrip("/"))


def serve_document(dashboard: Dashboard) -> Mapping[str, Any]:
    """Serve's document, as the operator reads it."""
    data = _get(dashboard, "/api/serve/applications/", {})
    try:
        found = json.loads(data)
    except ValueError:
        raise RayUnreachable(f"{dashboard.address} does not answer as a Ray dashboard does") from None
    return dict(found) if isinstance(found, dict) else {}


def log(dashboard: Dashboard, replica: Replica, lines: int) -> str:
    """The last lines of a replica's log."""
    query = {"node_id": replica.node, "filename": replica.file, "lines": str(lines)}
    return _get(dashboard, "/api/v0/logs/file", query).decode(errors="replace")


def _get(dashboard: Dashboard, path: str, query: Mapping[str, str]) -> bytes:
    url = f"{dashboard.address}{path}" + (f"?{urlencode(query)}" if query else "")
    request = urllib.request.Request(url)
    if dashboard.token:
        request.add_header("Authorization", f"Bearer {dashboard.token}")
    context = ssl.create_default_context(cadata=dashboard.ca) if dashboard.address.startswith("https") else None
    handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])]
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(LIMIT)
            return data
    except urllib.error.HTTPError as error:
        raise RayUnreachable(f"{dashboard.address} answered {error.code}") from None
    except OSError as error:
        why = getattr(error, "reason", None) or error
        raise RayUnreachable(f"{dashboard.address} cannot be reached from here: {type(why).__name__}") from None
