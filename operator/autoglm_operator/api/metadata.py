"""The part of Kubernetes metadata that the operator reads."""

from pydantic import AwareDatetime, ConfigDict, Field

from autoglm_operator.api.base import Model
from autoglm_operator.api.text import DnsLabel


class ObjectMeta(Model):
    """Standard Kubernetes object metadata."""

    model_config = ConfigDict(extra="ignore")

    name: DnsLabel
    """Name of the object. It becomes part of the Serve application's name, so it is a DNS label."""
    namespace: str | None = None
    """Namespace of the object; absent on cluster-scoped objects."""
    uid: str = ""
    """Identity of the object, new when it is deleted and made again."""
    generation: int = 0
    """Number of the spec, raised by the API server on every change of it."""
    resource_version: str = ""
    """Number of the object, new after every write."""
    creation_timestamp: AwareDatetime | None = None
    """When the object was made."""
    deletion_timestamp: AwareDatetime | None = None
    """When deletion was asked for."""
    finalizers: tuple[str, ...] = ()
    """Who must agree before the object goes away."""
    labels: dict[str, str] = Field(default={})
    """Labels of the object."""
    annotations: dict[str, str] = Field(default={})
    """Annotations of the object."""
