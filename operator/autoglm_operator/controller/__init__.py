"""The controller: the same for an operator in a cluster and for `autoglm up`.

controller = Controller(Parts(store, fence, gateways, gateway_token, now, clock))
await controller.lead()     # works until it is cancelled; begins from nothing each time
controller.wake(key, generation)  # from any watch, as often as wanted; without effect while not leading
"""

from autoglm_operator.controller.leadership import Leadership
from autoglm_operator.controller.parts import Parts
from autoglm_operator.state import GatewayView, SiteView
from autoglm_operator.store import AlwaysLeading, ObjectKey

__all__ = ["AlwaysLeading", "Controller", "Parts"]


class Controller:
    """Looks after deployments and sites whenever `lead` runs. Use from one event loop."""

    def __init__(self, parts: Parts) -> None:
        """Nothing is read or written before `lead`."""
        self._parts = parts
        self._leadership: Leadership | None = None

    async def lead(self) -> None:
        """Works until it is cancelled."""
        leadership = self._leadership = Leadership(self._parts)
        self._parts.metrics.leader.set(1)
        try:
            await leadership.run()
        finally:
            self._leadership = None
            self._parts.metrics.leader.set(0)
            self._parts.metrics.forget_observed()

    def wake(self, key: ObjectKey, generation: int | None = None) -> None:
        """Something about this object may have changed. A `generation` that is new tells that something else is wanted."""
        if self._leadership is not None:
            self._leadership.changed(key, generation)

    def site_views(self) -> tuple[SiteView, ...]:
        """What is known about the sites now; nothing while not leading."""
        return self._leadership.sites.views() if self._leadership else ()

    def gateway_views(self) -> tuple[GatewayView, ...]:
        """What the gateways last said; nothing while not leading."""
        return self._leadership.publisher.views() if self._leadership else ()
