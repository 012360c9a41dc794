"""Settings of one operator process. Seconds everywhere; the defaults are what the tests and the benchmarks run with."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, and how much is done at once."""

    busy_poll_s: float = 2.0
    """A site on which something progresses."""
    idle_poll_s: float = 10.0
    """A site on which nothing does."""
    gateway_poll_s: float = 2.0
    """The report of a gateway."""
    discovery_s: float = 5.0
    """The addresses behind the name of the gateways."""
    gather_s: float = 0.1
    """Changes of routes within this time go to the gateways as one table."""
    resync_s: float = 300.0
    """Everything is read and decided again this often, in case a watch lost an event."""
    workers: int = 8
    """Objects that are worked on at the same time."""


@dataclass(frozen=True)
class OperatorSettings:
    """What `python -m autoglm_operator run` was told."""

    lease_namespace: str
    identity: str
    namespaces: tuple[str, ...] = ()
    """Namespaces of the deployments that this operator looks after; empty means all."""
    gateways: tuple[str, ...] = ()
    """Admin addresses of the gateways, such as "http://10.0.0.7:9901"."""
    gateway_service: str = ""
    """A name behind which every address is one more gateway, such as "http://autoglm-gateway-admin:9901"."""
    gateway_token_file: Path | None = None
    lease_name: str = "autoglm-operator"
    lease_duration_s: float = 15.0
    host: str = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from outside the pod
    health_port: int = 8081
    metrics_port: int = 9090
    pace: Pace = field(default_factory=Pace)
