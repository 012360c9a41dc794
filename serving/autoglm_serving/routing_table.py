"""The routing table: what the operator tells a gateway, and what the gateway tells it back.

A table is signed with a key that the operator and the gateway share, and carries `(epoch, version)`, which only grows. So a
gateway can keep the last good table on disk, and neither a stranger nor a delayed operator can make it go back.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from autoglm_serving.config import BASE, Limits
from autoglm_serving.measurements import FirstBytes, LoadReport, RevisionReport

Tier = Literal["cloud", "edge"]
Policy = Literal["leastWork", "roundRobin"]
AdmissionState = Literal["Probing", "Admitted", "ProbeFailed"]
Generation = tuple[int, int]


FASTEST_BPS = 50e6
"""A screenshot takes less than a tenth of a second at this rate. What is faster limits nothing, and is not told apart."""


class TableRefused(ValueError):
    """A table was not taken. The message says why in words that an operator's status can show."""


class Part(BaseModel):
    """Base of everything here: frozen, strict about unknown keys, camelCase on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Endpoint(Part):
    """One path to the application of a deployment: a site may have several."""

    site: str
    url: str
    """`http://host:port/NAMESPACE.NAME`. A URL that cannot be used costs this endpoint only, never the table."""
    revision: str
    """The revision that the operator saw there when it wrote the table."""
    tier: Tier = "cloud"
    bandwidth_bps: Annotated[float, Field(gt=0)] | None = None
    """Bits per second from the gateway to the site. None: not a limit."""
    rtt_s: Annotated[float, Field(ge=0)] | None = None
    price: Annotated[float, Field(ge=0)] = 0.0
    variant: str | None = None
    """The variant of the model that shall run there; `base` for the model itself. None: the deployment has no variants."""
    wanted: str | None = None
    """The revision that it must answer with, where that is not the route's: each variant has one of its own."""


class TasksSolved(Part):
    """How many tasks a model solved, of how many."""

    right: Annotated[int, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.right > self.samples:
            raise ValueError("right must not be above samples")
        return self


class Variant(Part):
    """A form of the model's weights, and what it was measured to solve."""

    name: str
    quality: TasksSolved | None = None


class VariantPolicy(Part):
    """Which variants of its model a deployment has, and how good one must be to serve."""

    base: TasksSolved | None = None
    """What the model itself solves."""
    variants: tuple[Variant, ...] = ()
    floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the tasks solved by the model itself that a variant must solve."""

    def quality(self, name: str) -> TasksSolved | None:
        """What a variant was measured to solve."""
        if name == BASE:
            return self.base
        return next((one.quality for one in self.variants if one.name == name), None)

    def share(self, name: str) -> float | None:
        """What a variant solves, as a share of what the model itself solves, which is 1; None where nobody measured it."""
        if name == BASE:
            return 1.0
        own = self.quality(name)
        if own is None or self.base is None or not self.base.right:
            return None
        return own.right * self.base.samples / (own.samples * self.base.right)

    def shortfall(self, name: str) -> str:
        """Why a variant must not serve; empty where it may. Without a floor every variant may."""
        if self.floor is None:
            return ""
        share = self.share(name)
        if share is None:
            return f"nobody has measured what it solves, and the floor is {self.floor:.4g}"
        if share >= self.floor:
            return ""
        return f"it solves {share:.4f} of what the model itself solves, and the floor is {self.floor:.4g}"


class MeasuredQuality(TasksSolved):
    """How many tasks a model solved on screens seen at one short side (pixels). Kind `*`: all kinds of screens together."""

    kind: str = "*"
    short_side: Annotated[int, Field(ge=1)]


class ResolutionPolicy(Part):
    """Bounds of the resolution that the gateway chooses; sides in pixels."""

    mode: Literal["fixed", "dynamic"] = "fixed"
    min_short_side: Annotated[int, Field(ge=28)] = 480
    max_short_side: Annotated[int, Field(ge=28)] = 1080
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Weight of bandwidth against load."""
    quality: tuple[MeasuredQuality, ...] = ()
    """What the model solves at which size. Without it nothing is known about what a size loses."""
    quality_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the tasks solved at the largest measured size that a chosen one must still solve."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_short_side > self.max_short_side:
            raise ValueError("minShortSide must not be above maxShortSide")
        return self


class Canary(Part):
    """A second revision beside the one that clients get: its share of the sessions, and copies of the others' requests."""

    revision: str
    """The revision that its endpoints must answer with."""
    endpoints: tuple[Endpoint, ...] = ()
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the sessions that it serves."""
    mirror: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent of the other requests that are copied to it. The copies' answers are compared and dropped."""
    mirror_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Most copies under way at one time in one gateway; further ones are not made."""
    tolerance: Annotated[int, Field(ge=0, le=999)] = 20
    """Farthest distance of two places that count as the same, on AutoGLM's scale of 0 to 999."""
    window: str = ""
    """Names the measurement: a new name starts all figures of both revisions from zero."""


class Route(Part):
    """Everything the gateway needs to serve one deployment."""

    deployment: str
    """`NAMESPACE/NAME`."""
    model: str
    """The model name that clients send."""
    uid: str
    revision: str
    """The revision that clients shall get. Endpoints that answer with another one are not admitted."""
    endpoints: tuple[Endpoint, ...] = ()
    policy: Policy = "leastWork"
    ttft_target_s: Annotated[float, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    """Further attempts, each on another endpoint, before the first byte of an answer."""
    limits: Limits = Limits()
    resolution: ResolutionPolicy = ResolutionPolicy()
    variants: VariantPolicy | None = None
    """None: the deployment has no variants."""
    suspended: bool = False
    asleep: bool | None = None
    """True: there are no replicas because nobody asked for any, and a request wakes them."""
    canary: Canary | None = None


class RoutingTable(Part):
    """All routes of one gateway. `(epoch, version)` orders tables; `written_at` gives the age."""

    epoch: Annotated[int, Field(ge=0)]
    version: Annotated[int, Field(ge=0)]
    written_at: datetime
    routes: tuple[Route, ...] = ()

    @property
    def generation(self) -> Generation:
        """What orders tables: a new leader raises the epoch, every table it writes raises the version."""
        return (self.epoch, self.version)

    def for_model(self, model: str) -> Route | None:
        """The route that serves a model name. If two claim one name, the first in deployment order wins."""
        claims = [route for route in self.routes if route.model == model]
        return min(claims, key=lambda route: route.deployment) if claims else None


class SignedTable(Part):
    """A routing table as it travels and as it lies on disk."""

    payload: str
    """JSON of RoutingTable; exactly these bytes (UTF-8) are signed."""
    signature: str
    """Hex HMAC-SHA256."""


class Told(Part):
    """Base of what a gateway says. A newer gateway may tell more than is known here, and is heard all the same."""

    model_config = ConfigDict(extra="ignore")


class Admission(Told):
    """What the gateway knows about one deployment at one site."""

    deployment: str
    site: str
    revision: str
    """The revision that answered the last probe; the empty string before the first answer."""
    state: AdmissionState
    message: str
    observed_at: datetime
    ttft_s: float | None = None
    wanted: str = ""
    """The revision that the table asks of this endpoint; two revisions at one site are told apart by it."""


class LinkReport(Told):
    """What the gateway measured of the network to one site."""

    site: str
    rtt_s: float
    """Round trip of a small request, the shortest of the last few."""
    bandwidth_bps: float | None = None
    """What an upload reaches; None while that is not known, or limits nothing."""
    observed_at: datetime
    """When the site last answered such a request."""


class GatewayReport(Told):
    """A gateway's answer to the operator."""

    table_epoch: int
    table_version: int
    admissions: tuple[Admission, ...]
    started_at: datetime
    revisions: tuple[RevisionReport, ...] = ()
    """Both revisions of each route that has a canary: the shares that they get now, and what was measured."""
    first_bytes: tuple[FirstBytes, ...] = ()
    """How long answers took to begin lately, for each deployment that had some."""
    links: tuple[LinkReport, ...] = ()
    """The network to each site of which something is known."""
    loads: tuple[LoadReport, ...] | None = None
    """What each deployment has to do; one that is not named has nothing. None: the gateway is older and does not tell."""


def sign(table: RoutingTable, key: bytes) -> SignedTable:
    """Serialise and sign a table. What is not set is left out, so that an older gateway meets no key without need."""
    payload = table.model_dump_json(by_alias=True, exclude_none=True)
    return SignedTable(payload=payload, signature=_hmac(payload, key))


def verify(signed: SignedTable, key: bytes) -> RoutingTable:
    """Check the signature, then read the table. Raises TableRefused; nothing unsigned is ever parsed."""
    if not key:
        raise TableRefused("the shared key is empty: give the gateway and the operator the same token file")
    if not hmac.compare_digest(_hmac(signed.payload, key).encode(), signed.signature.encode()):
        raise TableRefused("the signature does not match: the operator and the gateway hold different keys")
    try:
        return RoutingTable.model_validate_json(signed.payload)
    except ValidationError as error:
        raise TableRefused(f"the table is not valid: {_first_problem(error)}") from error


def _hmac(payload: str, key: bytes) -> str:
    return hmac.new(key, payload.encode(), hashlib.sha256).hexdigest()


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
