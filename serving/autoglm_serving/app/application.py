"""The Serve application: deployments `Ingress` (HTTP), `Engine` (replicas) and, if asked for, `Encoder`."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from autoglm_serving.app.encoder_replica import EncoderReplica
from autoglm_serving.app.encoder_scaling import scaling
from autoglm_serving.app.engine_replica import EngineReplica
from autoglm_serving.app.gang_actors import actor_options, create_engine_on_ray, engine_resources
from autoglm_serving.app.http import create_app
from autoglm_serving.app.replica_router import REPORT_PERIOD_S, REPORT_TIMEOUT_S
from autoglm_serving.app.replicas import Replicas
from autoglm_serving.config import AppConfig, EncoderConfig

MAX_CONSTRUCTOR_TRIES = 3
"""A model that is not there is not there at the fourth look either; then the application's message says so."""
DRAIN_S = 120.0
"""A stopping replica may finish what it runs for so long."""
HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 30.0
INGRESS_REPLICAS = 2
"""One may be lost, with its process or its node, and requests still have a way in. They hold no model."""
REPLICA_ROUTER = "autoglm_serving.app.replica_router.ReplicaRouter"
ENCODER_ROUTER = "autoglm_serving.app.encoder_router.EncoderRouter"
ENCODER_REQUESTS = 16
"""Images in one encoder at once, and as many waiting in each engine replica. Beyond that a replica encodes itself."""
ENCODER_DRAIN_S = 20.0
"""A stopping encoder may finish what it runs for so long; nobody waits for features for longer than `wait_s`."""
INGRESS_REQUESTS = 1024
"""Requests in one ingress at once, and as many before it. The ingress refuses in OpenAI's shape when the engines' queue is
full (`Limits.max_queue`); beyond this number Serve itself answers a plain 503."""

IN_INGRESSES = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "no_grpc_proxy": "0.0.0.0/0,::/0",
}
"""Environment of an ingress. Serve, its router and the HTTP side share one event loop there: between threads each message
would wake three of them. And calls to replicas, which go by gRPC, never go through a web proxy of the machine."""

NOT_ON_HEADS = {"ray.io/node-group": "!headgroup"}
"""Where ingresses may be. They need no CPU, so Ray would put some on a head that has none to offer, and they would be lost with
it. KubeRay names the group of each node; a node that is in none, as in a cluster of one, is no head in this sense."""

_LOGGING = {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False}


class Engine(EngineReplica):
    """The replica as Serve makes it: ready when its model is loaded."""

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors
        self, args: dict[str, Any], encoder: DeploymentHandle | None = None
    ) -> None:
        super().__init__(args, create_engine_on_ray, encoder=encoder)
        await self.start()

    async def __del__(self) -> None:
        await self.close()


class Encoder(EncoderReplica):
    """The encoder as Serve makes it: ready when its tower is loaded."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits constructors
        super().__init__(args)
        await self.start()

    async def __del__(self) -> None:
        await self.close()


class Ingress:
    """The HTTP side as Serve makes it."""

    def __init__(self, args: dict[str, Any], engine: DeploymentHandle) -> None:
        self._config = AppConfig.model_validate(args)
        self._engine = engine

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._config, Replicas(self._engine))


def build_application(
    args: dict[str, Any], replica: type[EngineReplica] = Engine, router: str = REPLICA_ROUTER
) -> Application:
    """The application for `args`; raises pydantic's ValidationError when they are no AppConfig.

    `router` is the import path of the class that chooses engine replicas.
    """
    config = AppConfig.model_validate(args)
    plain = config.model_dump(mode="json", by_alias=True)
    engine = serve.deployment(
        replica,
        name="Engine",
        num_replicas=max(1, config.replicas),
        **engine_resources(config),
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.limits.max_queue,
        max_constructor_retry_count=MAX_CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        request_router_config=RequestRouterConfig(
            request_router_class=router,
            request_routing_stats_period_s=REPORT_PERIOD_S,
            request_routing_stats_timeout_s=REPORT_TIMEOUT_S,
        ),
        logging_config=_LOGGING,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        num_replicas=INGRESS_REPLICAS,
        ray_actor_options={
            "num_cpus": 0,
            "label_selector": NOT_ON_HEADS,
            "runtime_env": {"env_vars": IN_INGRESSES},
        },
        max_ongoing_requests=INGRESS_REQUESTS,
        max_queued_requests=INGRESS_REQUESTS,
        backpressure_config={"status_code": 503, "retry_after_s": 1.0},
        max_constructor_retry_count=MAX_CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_PERIOD_S,
        logging_config=_LOGGING,
    )
    if config.encoder is None:
        return ingress.bind(plain, engine.bind(plain))
    return ingress.bind(plain, engine.bind(plain, _encoder(config.encoder).bind(plain)))


def _encoder(config: EncoderConfig) -> serve.Deployment:
    return serve.deployment(
        Encoder,
        name="Encoder",
        **scaling(config),
        ray_actor_options=actor_options(config.worker),
        max_ongoing_requests=ENCODER_REQUESTS,
        max_queued_requests=ENCODER_REQUESTS,
        max_constructor_retry_count=MAX_CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=ENCODER_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        request_router_config=RequestRouterConfig(request_router_class=ENCODER_ROUTER),
        logging_config=_LOGGING,
    )
