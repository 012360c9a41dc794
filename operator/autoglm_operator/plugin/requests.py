"""What the gateways of a cluster remember about one request: each pod of the chart is asked, through the API server."""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from autoglm_operator.plugin.cluster import Cluster, ClusterFailed, NotThere
from autoglm_operator.store import JsonObject
from autoglm_serving.headers import GATEWAY_TOKEN

VOLUME = "token"
"""The volume of a gateway pod that holds what its admin interface asks for."""


@dataclass
class Search:
    """What came of asking: the record with the pod that has it, and what every other pod said instead."""

    gateway: str = ""
    record: JsonObject | None = None
    silent: dict[str, str] = field(default_factory=dict)


def find(cluster: Cluster, pods: Sequence[JsonObject], port: int, request_id: str, token: str | None) -> Search:
    """Asks one gateway after the other until one knows the request. `token` is shown to each of `pods`, which therefore have to
    be trusted with it; None reads the Secret that each of them mounts."""
    found = Search()
    for pod in pods:
        name = str(pod["metadata"]["name"])
        try:
            value = _token(cluster, pod) if token is None else token
            text = cluster.fetch(pod, port, f"/v1/requests/{quote(request_id, safe='')}", {GATEWAY_TOKEN: value})
            found.gateway, found.record = name, _record(text)
            return found
        except NotThere:
            found.silent[name] = "does not know it"
        except ClusterFailed as error:
            found.silent[name] = str(error)
    return found


def _token(cluster: Cluster, pod: JsonObject) -> str:
    metadata = pod["metadata"]
    for secret, key in _mounted(pod):
        try:
            stored = cluster.json(f"/api/v1/namespaces/{metadata['namespace']}/secrets/{secret}").get("data") or {}
            return base64.b64decode(stored[key], validate=True).decode().strip()
        except NotThere:
            raise ClusterFailed(f"its token's Secret {secret} is not there") from None
        except (KeyError, binascii.Error, UnicodeDecodeError):
            raise ClusterFailed(f"the Secret {secret} has no token under {key}") from None
    raise ClusterFailed("it mounts no token: give --gateway-token-file")


def _mounted(pod: JsonObject) -> Iterator[tuple[str, str]]:
    """Secret and key of a gateway pod's token."""
    for volume in pod["spec"].get("volumes") or ():
        secret = volume.get("secret")
        if volume["name"] == VOLUME and secret:
            items = secret.get("items") or ({"key": "token"},)
            yield secret["secretName"], items[0]["key"]


def _record(text: str) -> JsonObject:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "requestId" not in record:
        raise ClusterFailed("it answered with something that is not a record of a request")
    return record
