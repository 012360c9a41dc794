"""What a controller works with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from autoglm_operator.controller.discovery import Resolve, resolve
from autoglm_operator.kube import KubeApi
from autoglm_operator.settings import Pace
from autoglm_operator.store import Fence, NotLeading, Store
from autoglm_operator.telemetry import Metrics


@dataclass(frozen=True)
class Parts:
    """Everything that differs between an operator in a cluster, `autoglm up` and a test."""

    store: Store
    fence: Fence
    gateways: tuple[str, ...]
    """Admin addresses of the gateways, such as "http://10.0.0.7:9901"."""
    gateway_token: Callable[[], str]
    """The token of the gateways' admin API, which also signs the routing table. Read anew each time."""
    now: Callable[[], datetime]
    """The time of day, for statuses."""
    clock: Callable[[], float]
    """Seconds that only grow, for waiting."""
    gateway_service: str = ""
    """A name behind which every address is one more gateway, such as "http://autoglm-gateway-admin:9901"."""
    resolve: Resolve = resolve
    """How addresses are found behind that name."""
    connect: Callable[[str | None], KubeApi] | None = None
    """The API of the Kubernetes cluster that a kubeconfig names, or of ours for None. Absent where there is no Kubernetes."""
    metrics: Metrics = field(default_factory=Metrics)
    pace: Pace = field(default_factory=Pace)

    def check_leading(self) -> None:
        """Raises `NotLeading` when nothing may be written."""
        if self.fence.epoch() is None:
            raise NotLeading("not the leader: nothing was written")
