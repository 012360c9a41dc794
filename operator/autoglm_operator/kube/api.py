"""Calls of the Kubernetes API server: threads, timeouts, retries, and errors that become `StoreError`.

The official client is synchronous; its calls run in a small pool of threads, each with its own timeouts. Every write
asks the fence in the same thread, right before the bytes leave.
"""

import asyncio
import functools
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import kubernetes.client
import kubernetes.config
import urllib3.exceptions
import yaml

from autoglm_operator.store import Conflict, Fence, JsonObject, NotFound, NotLeading, StoreError

FIELD_MANAGER = "autoglm-operator"
RETRIED = frozenset({429, 500, 502, 503, 504})

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Patience:
    """How long one call may take (seconds for each attempt), and how often it is tried."""

    connect_s: float = 3.0
    read_s: float = 10.0
    attempts: int = 4


class Forbidden(StoreError):
    """The service account may not do this."""


class Refused(StoreError):
    """The API server found the object wrong, or an admission rule or quota forbids it. It has its words."""


@dataclass(frozen=True)
class Call:
    """One request to the API server."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content_type: str = JSON

    @property
    def writes(self) -> bool:
        """Whether the call may change something."""
        return self.method != "GET"


def load_configuration() -> "kubernetes.client.Configuration":
    """The service account of the pod we run in, else KUBECONFIG, else ~/.kube/config."""
    configuration = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=configuration)
    except kubernetes.config.ConfigException:
        kubernetes.config.load_kube_config(client_configuration=configuration)
    configuration.retries = False
    return configuration


def bearer_token(configuration: "kubernetes.client.Configuration") -> str:
    """The token by which calls are made; empty where they are made with a certificate."""
    return str(configuration.api_key.get("BearerToken", "")).rpartition(" ")[2]


def remote_configuration(kubeconfig: str) -> "kubernetes.client.Configuration":
    """The current context of a kubeconfig. Raises `StoreError` when it is none; its text may hold a secret and is not told.

    A kubeconfig from a Secret may not start programs or read files here.
    """
    try:
        config = yaml.safe_load(kubeconfig)
        _refuse_local(config)
        configuration = kubernetes.client.Configuration()
        kubernetes.config.load_kube_config_from_dict(config, client_configuration=configuration)
    except (
        yaml.YAMLError,
        kubernetes.config.ConfigException,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise StoreError(f"the kubeconfig cannot be used: {type(error).__name__}") from None
    configuration.retries = False
    return configuration


def _refuse_local(config: Any) -> None:
    for user in config.get("users") or ():
        for word in ("exec", "auth-provider", "tokenFile", "client-certificate", "client-key"):
            if word in (user.get("user") or {}):
                raise StoreError(f"the kubeconfig uses {word}: put the token or the certificate itself into it")
    for cluster in config.get("clusters") or ():
        if "certificate-authority" in (cluster.get("cluster") or {}):
            raise StoreError("the kubeconfig uses certificate-authority: put certificate-authority-data into it")


class KubeApi:
    """Calls the API server from threads. `on_call` hears of every attempt: (method, status or error name, seconds)."""

    def __init__(
        self,
        configuration: "kubernetes.client.Configuration",
        fence: Fence | None = None,
        threads: int = 8,
        patience: Patience | None = None,
        on_call: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """Without a fence every write is allowed: right for the lease itself and for nothing else."""
        configuration.connection_pool_maxsize = threads
        self._client = kubernetes.client.ApiClient(configuration)
        self._fence = fence
        self._patience = patience or Patience()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kube")
        self._closing = threading.Event()
        self._on_call = on_call

    async def request(self, call: Call) -> JsonObject:
        """The JSON answer. Raises a `StoreError` after a few attempts at most."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, functools.partial(self._request, call))

    def close(self) -> None:
        """Ends waiting threads. Calls under way end by their own timeouts."""
        self._closing.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _request(self, call: Call) -> JsonObject:
        for attempt in range(1, self._patience.attempts + 1):
            if call.writes and self._fence is not None and self._fence.epoch() is None:
                raise NotLeading(f"not the leader: {call.method} {call.path} was not sent")
            started = time.monotonic()
            try:
                status, headers, data = self._send(call)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                self._on_call(call.method, type(error).__name__, time.monotonic() - started)
                problem = StoreError(f"the API server cannot be reached: {type(error).__name__}")
                delay = _backoff(attempt)
            else:
                self._on_call(call.method, str(status), time.monotonic() - started)
                if 200 <= status < 300:
                    return _decode(data)
                problem = _problem(call, status, data)
                if status not in RETRIED:
                    raise problem
                delay = _retry_after(headers) or _backoff(attempt)
            if attempt == self._patience.attempts or self._closing.wait(delay):
                raise problem
        raise AssertionError("the last attempt returns or raises")

    def _send(self, call: Call) -> tuple[int, Any, bytes]:
        headers = {"Accept": JSON}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        method, url, header_params, body, _ = self._client.param_serialize(
            call.method,
            call.path,
            query_params=list(call.query),
            header_params=headers,
            body=call.body,
            auth_settings=["BearerToken"],
        )
        response = self._client.call_api(
            method,
            url,
            header_params=header_params,
            body=body,
            _request_timeout=(self._patience.connect_s, self._patience.read_s),
        )
        return response.status, response.headers, response.read()


def _backoff(attempt: int) -> float:
    return float(0.2 * 2.0**attempt * random.uniform(0.8, 1.2))


def _retry_after(headers: Any) -> float | None:
    try:
        return min(float(headers.get("Retry-After")), 10.0)
    except (TypeError, ValueError):
        return None


def _decode(data: bytes) -> JsonObject:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreError("the API server answered with something that is not JSON") from error
    if not isinstance(value, dict):
        raise StoreError("the API server answered with JSON that is not an object")
    return value


def _problem(call: Call, status: int, data: bytes) -> StoreError:
    try:
        message = str(_decode(data).get("message") or f"HTTP {status}")
    except StoreError:
        message = f"HTTP {status}"
    text = f"{call.method} {call.path}: {message}"
    kinds: dict[int, type[StoreError]] = {
        400: Refused,
        401: Forbidden,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        422: Refused,
    }
    return kinds.get(status, StoreError)(text)
