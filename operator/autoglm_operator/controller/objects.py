"""What the controller remembers of the stored objects: each one parsed, or told apart as one that cannot be used."""

from dataclasses import dataclass, field

from autoglm_operator.api import (
    AutoGLMDeployment,
    AutoGLMSite,
    InvalidResource,
    ObjectMeta,
    Problem,
    parse_deployment,
    parse_deployment_status,
    parse_metadata,
    parse_site,
    parse_site_status,
)
from autoglm_operator.state import InvalidDeployment, InvalidSite
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, ObjectKey

Deployment = AutoGLMDeployment | InvalidDeployment
Site = AutoGLMSite | InvalidSite


def read_deployment(raw: JsonObject) -> Deployment:
    """A deployment, whatever is stored."""
    try:
        return parse_deployment(raw)
    except InvalidResource as invalid:
        return InvalidDeployment(_metadata(raw), invalid.problems, parse_deployment_status(raw))


def read_site(raw: JsonObject) -> Site:
    """A site, whatever is stored."""
    try:
        return parse_site(raw)
    except InvalidResource as invalid:
        return InvalidSite(_metadata(raw), invalid.problems, parse_site_status(raw))


def problems_of(item: Deployment | Site) -> tuple[Problem, ...]:
    """What is wrong with the object; nothing for one that can be used."""
    return item.problems if isinstance(item, InvalidDeployment | InvalidSite) else ()


def _metadata(raw: JsonObject) -> ObjectMeta:
    try:
        return parse_metadata(raw)
    except InvalidResource:
        # Only what is needed to write a status and to let the object go.
        stored = raw.get("metadata") or {}
        return ObjectMeta.model_construct(
            name=str(stored.get("name") or ""),
            namespace=stored.get("namespace"),
            uid=str(stored.get("uid") or ""),
            generation=int(stored.get("generation") or 0),
            finalizers=tuple(stored.get("finalizers") or ()),
        )


@dataclass
class Objects:
    """All objects, by key. A pass reads its own object anew and puts it here; the others are as last seen."""

    deployments: dict[ObjectKey, Deployment] = field(default_factory=dict)
    sites: dict[ObjectKey, Site] = field(default_factory=dict)

    def put_deployment(self, raw: JsonObject) -> tuple[Deployment | None, Deployment]:
        """Remembers it; what it was before, and what it is."""
        key = ObjectKey.of(DEPLOYMENT, raw)
        before, after = self.deployments.get(key), read_deployment(raw)
        self.deployments[key] = after
        return before, after

    def put_site(self, raw: JsonObject) -> tuple[Site | None, Site]:
        """Remembers it; what it was before, and what it is."""
        key = ObjectKey.of(SITE, raw)
        before, after = self.sites.get(key), read_site(raw)
        self.sites[key] = after
        return before, after

    def rivals(self, *items: Deployment | None) -> set[ObjectKey]:
        """Deployments that use a model name of one of these: which of them has the name may have changed."""
        names = {item.spec.model.name for item in items if isinstance(item, AutoGLMDeployment)}
        return {
            key
            for key, item in self.deployments.items()
            if isinstance(item, AutoGLMDeployment) and item.spec.model.name in names
        }
