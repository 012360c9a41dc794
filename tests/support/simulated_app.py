"""The real application with simulated engines and a router of choice. Import path: `support.simulated_app:build`.

The arguments are those of the application, and `router`: ours, or one of Ray's.
"""

from typing import Any

from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter
from ray.serve import Application

from autoglm_serving.app.application import REPLICA_ROUTER, Engine, build_application
from autoglm_serving.app.engine_replica import EngineReplica
from autoglm_serving.engines.interface import TextPart
from support.simulated_engine import SimulatedEngine

ROUTERS = {
    "ours": REPLICA_ROUTER,
    "pow-2": "ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter",
    "ray-prefix": "support.simulated_app:PrefixRouter",
}


class PrefixRouter(PrefixCacheAffinityRouter):  # type: ignore[misc]  # Ray's classes have no types
    """Ray's prefix router on our calls: it sees their text, and as with OpenAI's messages no images."""

    def _extract_text_from_request(self, pending_request: Any) -> str:
        call = pending_request.args[0]
        return "".join(part.text for turn in call.turns for part in turn.parts if isinstance(part, TextPart))


class SimulatedReplica(Engine):
    """Engine replicas with simulated engines; everything else is the real class."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits constructors
        EngineReplica.__init__(self, args, SimulatedEngine)
        await self.start()


def build(args: dict[str, Any]) -> Application:
    """The application for `args`."""
    rest = {key: value for key, value in args.items() if key != "router"}
    return build_application(rest, SimulatedReplica, ROUTERS[args["router"]])
