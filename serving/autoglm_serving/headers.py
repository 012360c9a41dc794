"""HTTP header names that cross a boundary between the client, the gateway and the application.

Names are lower case, as HTTP/2, Envoy and ASGI write them.
"""

REQUEST_ID = "x-request-id"
"""Names one request in answers, logs, spans and `autoglm explain`. The gateway makes it."""

SITE = "x-autoglm-site"
"""Answer: the site that served the request."""

REVISION = "x-autoglm-revision"
"""Answer of the application: the revision of the deployment that served the request."""

VARIANT = "x-autoglm-variant"
"""Answer: the variant of the model that served the request, or `base` (`config.BASE`); absent where a deployment has none."""

RESOLUTION = "x-autoglm-resolution"
"""Answer: the short side in pixels that the gateway chose for images, for example `720`."""

REASON = "x-autoglm-reason"
"""Answer: why this endpoint was picked, in one word of `routing.Reason`."""

DESTINATION = "x-gateway-destination-endpoint"
"""Picker to Envoy: comma-separated `host:port`, in the order of attempts.

The name is set by the endpoint-picker protocol of the Gateway API Inference Extension.
"""

MAX_PIXELS = "x-autoglm-max-pixels"
"""Gateway to application: the engine's limit of pixels in one image of this request."""

OBSERVE = "x-autoglm-observe"
"""Picker to Envoy: `1` sends the picker a copy of the answer as it passes. Nothing waits for the copy."""

SESSION = "x-session-id"
"""Client to gateway, optional: requests of one session stay on one revision. Without it `user` of the body counts."""

TENANT = "x-autoglm-tenant"
"""Gateway to application: whose caches this request may use; a hash of its credential.

Without it all requests share one tenant's caches.
"""

GATEWAY_TOKEN = "x-autoglm-gateway-token"  # noqa: S105 - the name of a header
"""The gateway's token where a request to its admin interface comes through something that keeps `authorization` for itself,
such as the proxy of a Kubernetes API server."""

RESERVED_PREFIXES = ("x-autoglm-", "x-gateway-", "x-envoy-", "x-forwarded-")
"""Headers that only the gateway may set. From clients they are removed before anything reads them."""

HINTS: frozenset[str] = frozenset()
"""Headers with a reserved prefix that clients may send. None is understood yet."""


def is_reserved(name: str) -> bool:
    """Whether a client's header of this name must be removed."""
    lowered = name.lower()
    return lowered.startswith(RESERVED_PREFIXES) and lowered not in HINTS
