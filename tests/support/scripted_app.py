"""The real application with support.scripted_engine in place of a model. Import path: `support.scripted_app:build`."""

from typing import Any

from ray.serve import Application

from autoglm_serving.app.application import Engine, build_application
from autoglm_serving.app.engine_replica import EngineReplica
from support.scripted_engine import ScriptedEngine


class ScriptedReplica(Engine):
    """Engine replicas with scripted engines; everything else is the real class."""

    async def __init__(self, args: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits constructors
        EngineReplica.__init__(self, args, ScriptedEngine)
        await self.start()


def build(args: dict[str, Any]) -> Application:
    """The application for `args`."""
    return build_application(args, ScriptedReplica)
