"""A Kubernetes cluster as a person's kubeconfig reaches it, for commands that run once and end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kubernetes.client
import kubernetes.config
import urllib3.exceptions

from autoglm_operator.api import GROUP, VERSION
from autoglm_operator.kube import PLURALS
from autoglm_operator.store import JsonObject, Kind

CONNECT_S = 5.0
READ_S = 30.0
PAGE = 500


class ClusterFailed(Exception):
    """The API server did not do it. The message says what and why."""


class NotThere(ClusterFailed):
    """There is no such object."""


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace: as kubectl's options of the same names. None takes what the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


class Cluster:
    """Calls of one API server. Every method raises `ClusterFailed`."""

    def __init__(self, target: Target) -> None:
        """Reads the kubeconfig; calls nothing yet."""
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_kube_config(target.kubeconfig, target.context, configuration, persist_config=False)
            _, active = kubernetes.config.list_kube_config_contexts(target.kubeconfig)
            if target.context is not None:
                contexts, _ = kubernetes.config.list_kube_config_contexts(target.kubeconfig)
                active = next(entry for entry in contexts if entry["name"] == target.context)
        except (kubernetes.config.ConfigException, OSError, ValueError, StopIteration) as error:
            raise ClusterFailed(f"the kubeconfig cannot be used: {error}") from None
        configuration.retries = False
        self.namespace = target.namespace or (active["context"].get("namespace") or "default")
        self._client = kubernetes.client.ApiClient(configuration)

    def objects(self, kind: Kind, namespace: str | None = None) -> list[JsonObject]:
        """All objects of a kind, in one namespace or in all."""
        items: list[JsonObject] = []
        token = ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            page = self.json(_path(kind, namespace), query)
            items += [{"apiVersion": f"{GROUP}/{VERSION}", "kind": kind} | item for item in page["items"]]
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return items

    def object(self, kind: Kind, name: str) -> JsonObject:
        """One object; deployments of the chosen namespace."""
        return self.json(f"{_path(kind, self.namespace)}/{name}")

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any]) -> JsonObject:
        """A merge patch of one object; the object after it."""
        path = f"{_path(kind, self.namespace)}/{name}"
        query = {"fieldManager": "kubectl-autoglm", "fieldValidation": "Strict"}
        return _object(self.call("PATCH", path, query, change, "application/merge-patch+json"))

    def events(self, about: JsonObject) -> list[JsonObject]:
        """Events about an object, oldest first."""
        namespace = about["metadata"].get("namespace") or "default"
        selector = {"fieldSelector": f"involvedObject.uid={about['metadata']['uid']}"}
        found = self.json(f"/api/v1/namespaces/{namespace}/events", selector)["items"]
        return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    def pods(self, selector: str, namespace: str | None = None) -> list[JsonObject]:
        """Pods by labels, in one namespace or in all."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return list(self.json(f"/api/v1{scope}/pods", {"labelSelector": selector})["items"])

    def log(self, pod: JsonObject, container: str, query: Mapping[str, str]) -> str:
        """What a container wrote."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        return self.call("GET", path, {"container": container, **query}).decode(errors="replace")

    def fetch(self, pod: JsonObject, port: int, path: str, headers: Mapping[str, str] | None = None) -> str:
        """What a port of a pod answers, through the API server: needs the right to get pods/proxy."""
        metadata = pod["metadata"]
        where = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{port}/proxy{path}"
        return self.call("GET", where, headers=headers).decode(errors="replace")

    def json(self, path: str, query: Mapping[str, str] | None = None) -> JsonObject:
        """A JSON object by GET."""
        return _object(self.call("GET", path, query))

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The bytes of an answer."""
        try:
            response = self._client.call_api(
                *self._client.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": "*/*", "Content-Type": content_type, **(headers or {})},
                    body=body,
                    auth_settings=["BearerToken"],
                ),
                _request_timeout=(CONNECT_S, READ_S),
            )
            data: bytes = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterFailed(f"the API server cannot be reached: {type(error).__name__}") from None
        if response.status == 404:
            raise NotThere(_words(data, response.status))
        if response.status >= 300:
            raise ClusterFailed(_words(data, response.status))
        return data


def _path(kind: Kind, namespace: str | None) -> str:
    scope = f"/namespaces/{namespace}" if namespace and kind == "AutoGLMDeployment" else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}"


def _object(data: bytes) -> JsonObject:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClusterFailed("the API server answered with something that is not a JSON object")
    return found


def _words(data: bytes, status: int) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return f"the API server answered {status}: {data[:200].decode(errors='replace')}"
