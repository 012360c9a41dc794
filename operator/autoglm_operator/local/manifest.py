"""A manifest file for this machine: what is in it, or everything that is wrong with it."""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from autoglm_operator.api import (
    API_VERSION,
    AutoGLMDeployment,
    InvalidResource,
    parse_deployment,
    parse_site,
)
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, Kind, ObjectKey

DEFAULT_NAMESPACE = "default"
LOCAL_SITE = "local"
MAX_BYTES = 1024 * 1024
SecretKey = tuple[str, str, str]


class InvalidManifest(ValueError):
    """A file that cannot be used, with every problem found."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


@dataclass(frozen=True)
class Manifest:
    """The objects of a file as JSON, by key, and the values of its Secrets by (namespace, name, key)."""

    objects: Mapping[ObjectKey, JsonObject]
    secrets: Mapping[SecretKey, str]

    def deployments(self) -> tuple[AutoGLMDeployment, ...]:
        """The deployments, in the order of the file."""
        return tuple(parse_deployment(raw) for key, raw in self.objects.items() if key.kind == DEPLOYMENT)

    @property
    def has_sites(self) -> bool:
        """Whether it names its own sites; then no local Ray is started."""
        return any(key.kind == SITE for key in self.objects)


def read(text: str) -> Manifest:
    """Read a manifest. Raises InvalidManifest."""
    if len(text.encode()) > MAX_BYTES:
        raise InvalidManifest([f"the file is larger than {MAX_BYTES // 1024} KiB: split it"])
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise InvalidManifest([f"is not YAML: {' '.join(str(error).split())}"]) from None
    except RecursionError:
        raise InvalidManifest(["is nested too deeply"]) from None
    reading = _Reading()
    for number, document in enumerate(documents, 1):
        reading.add(number, document)
    return reading.result()


class _Reading:
    def __init__(self) -> None:
        self._objects: dict[ObjectKey, JsonObject] = {}
        self._secrets: dict[SecretKey, str] = {}
        self._problems: list[str] = []

    def add(self, number: int, document: Any) -> None:
        if not isinstance(document, dict) or not isinstance(document.get("metadata") or {}, dict):
            self._problems.append(
                f"document {number}: is not a Kubernetes object: give apiVersion, kind, metadata, spec"
            )
            return
        match (document.get("apiVersion"), document.get("kind")):
            case (version, "AutoGLMDeployment") if version == API_VERSION:
                self._add_object(DEPLOYMENT, document, parse_deployment)
            case (version, "AutoGLMSite") if version == API_VERSION:
                self._add_object(SITE, document, parse_site)
            case ("v1", "Secret"):
                self._secrets.update(self._values(document))
            case ("v1", "Namespace"):
                return
            case (version, kind):
                self._problems.append(
                    f"document {number}: {version}/{kind} does not run here: keep AutoGLMDeployment and AutoGLMSite"
                    f" of {API_VERSION}, and the Secrets of sites"
                )

    def _add_object(self, kind: Kind, document: JsonObject, parse: Callable[[Mapping[str, Any]], object]) -> None:
        raw = {key: value for key, value in document.items() if key != "status"}
        raw["metadata"] = dict(raw.get("metadata") or {})
        if kind == DEPLOYMENT:
            raw["metadata"].setdefault("namespace", DEFAULT_NAMESPACE)
        key = ObjectKey.of(kind, raw)
        try:
            parse(raw)
        except InvalidResource as invalid:
            self._problems += [f"{kind} {key.name or '(no name)'}: {problem}" for problem in invalid.problems]
            return
        if key in self._objects:
            self._problems.append(f"{key}: is there twice: rename one")
        self._objects[key] = raw

    def _values(self, document: JsonObject) -> Iterator[tuple[SecretKey, str]]:
        metadata = document.get("metadata") or {}
        name, namespace = str(metadata.get("name")), str(metadata.get("namespace") or DEFAULT_NAMESPACE)
        for key, value in (document.get("data") or {}).items():
            try:
                yield (namespace, name, str(key)), base64.b64decode(str(value), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                self._problems.append(f"Secret {name}: data.{key}: is not base64 of text: use stringData")
        for key, value in (document.get("stringData") or {}).items():
            yield (namespace, name, str(key)), str(value)

    def result(self) -> Manifest:
        manifest = Manifest(self._objects, self._secrets)
        if not self._problems and not any(key.kind == DEPLOYMENT for key in self._objects):
            self._problems.append("has no AutoGLMDeployment: see examples/quickstart.yaml")
        if not self._problems and not manifest.has_sites:
            self._problems += _unmatched(manifest.deployments())
        if self._problems:
            raise InvalidManifest(self._problems)
        return manifest


def _unmatched(deployments: Sequence[AutoGLMDeployment]) -> Iterator[str]:
    """A file without sites gets one called "local"; a deployment that selects others would wait for ever."""
    for deployment in deployments:
        sites, name = deployment.spec.sites, deployment.metadata.name
        if sites.names and LOCAL_SITE not in sites.names:
            yield _no_site(name, f"names {', '.join(sites.names)}")
        elif sites.selector is not None and sites.selector.match_labels:
            yield _no_site(name, "selects by labels")


def _no_site(name: str, what: str) -> str:
    return (
        f"AutoGLMDeployment {name}: spec.sites: {what}, and the file has no AutoGLMSite:"
        f' remove spec.sites to run on this machine (a site called "{LOCAL_SITE}"), or add the sites to the file'
    )
