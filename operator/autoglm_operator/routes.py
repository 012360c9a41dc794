"""Routes of a deployment, and the routing table made of all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from autoglm_operator.api import AutoGLMDeployment, ResolutionSpec, RoutingSpec
from autoglm_operator.api.quantities import bits_per_second, seconds
from autoglm_operator.kuberay.names import serve_addresses
from autoglm_operator.state import InvalidDeployment, SiteView
from autoglm_serving.config import AppConfig
from autoglm_serving.routing_table import Endpoint, MeasuredQuality, ResolutionPolicy, Route, RoutingTable


@dataclass(frozen=True)
class Stop:
    """A site that may answer for a deployment, the revision that is expected there, and its application.

    Without a name the application has that of its deployment. `variant` is that of the model, None for a deployment without
    variants; `wanted` is the revision that has to answer there, if it is not that of the route.
    """

    view: SiteView
    revision: str
    application: str = ""
    variant: str | None = None
    wanted: str = ""


def table(routes: Iterable[Route], epoch: int, version: int, now: datetime) -> RoutingTable:
    """One table of all routes, in a stable order."""
    ordered = sorted(routes, key=lambda route: (route.deployment, route.uid))
    return RoutingTable(epoch=epoch, version=version, written_at=now, routes=tuple(ordered))


def route(
    deployment: AutoGLMDeployment,
    config: AppConfig,
    stops: Sequence[Stop],
    *,
    suspended: bool = False,
    asleep: bool = False,
) -> Route:
    """The route of one deployment. A suspended one has no endpoints: gateways then answer 503 and say why.

    One that is asleep is suspended as well, by which an older gateway knows what to do.
    """
    spec = deployment.spec
    return _route(config, () if suspended or asleep else stops, spec.routing, spec.resolution).model_copy(
        update={"suspended": suspended or asleep, "asleep": True if asleep else None}
    )


def of_running(config: AppConfig, stops: Sequence[Stop]) -> Route:
    """The route of an application whose spec cannot be read: its own arguments, and the defaults of routing."""
    return _route(config, stops, RoutingSpec(), ResolutionSpec())


def _route(config: AppConfig, stops: Sequence[Stop], routing: RoutingSpec, resolution: ResolutionSpec) -> Route:
    return Route(
        deployment=config.deployment,
        model=config.model.name,
        uid=config.uid,
        revision=config.revision,
        endpoints=endpoints(config, stops),
        policy=routing.policy,
        ttft_target_s=seconds(routing.slo.ttft) if routing.slo.ttft else None,
        timeout_s=seconds(routing.timeout),
        retries=routing.retries,
        limits=config.limits,
        resolution=ResolutionPolicy(
            mode=resolution.mode,
            min_short_side=resolution.min_short_side,
            max_short_side=resolution.max_short_side,
            alpha=resolution.alpha,
            quality=tuple(MeasuredQuality.model_validate(each.model_dump()) for each in resolution.quality or ()),
            quality_floor=resolution.quality_floor,
        ),
    )


def endpoints(config: AppConfig, stops: Iterable[Stop]) -> tuple[Endpoint, ...]:
    """The paths to the application at these sites."""
    return tuple(end for stop in stops for end in _endpoints(stop, config))


def application_at(endpoints: Iterable[Endpoint], site: str) -> str | None:
    """The application that endpoints lead to at a site: the last part of the path. None if they lead to none there."""
    return next((end.url.rstrip("/").rpartition("/")[2] for end in endpoints if end.site == site), None)


def holder(
    deployment: AutoGLMDeployment, others: Iterable[AutoGLMDeployment | InvalidDeployment]
) -> AutoGLMDeployment | None:
    """The deployment that holds the model name of this one: the oldest that is not being deleted. None if it is this one."""
    rivals = [
        other
        for other in others
        if isinstance(other, AutoGLMDeployment)
        and other.metadata.uid != deployment.metadata.uid
        and other.metadata.deletion_timestamp is None
        and other.spec.model.name == deployment.spec.model.name
    ]
    first = min([*rivals, deployment], key=_seniority)
    return None if first is deployment else first


def _endpoints(stop: Stop, config: AppConfig) -> Iterable[Endpoint]:
    site, name = stop.view.site, stop.application or config.deployment.replace("/", ".")
    link, ray = site.spec.link, site.spec.backend.ray
    for address in ray.serve_addresses if ray else serve_addresses(name, site):
        yield Endpoint(
            site=site.metadata.name,
            url=f"{address.rstrip('/')}/{name}",
            revision=stop.revision,
            tier=site.spec.tier,
            bandwidth_bps=bits_per_second(link.bandwidth) if link.bandwidth else None,
            rtt_s=seconds(link.rtt) if link.rtt else None,
            price=site.spec.price,
            variant=stop.variant,
            wanted=stop.wanted if stop.wanted not in ("", config.revision) else None,
        )


def _seniority(deployment: AutoGLMDeployment) -> tuple[float, str, str]:
    meta = deployment.metadata
    return (meta.creation_timestamp.timestamp() if meta.creation_timestamp else 0.0, meta.namespace or "", meta.name)
