"""The engine that a configuration names."""

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.gang.leader import Launcher
from autoglm_serving.engines.interface import Engine


def create_engine(config: AppConfig, ranks: Launcher | None = None) -> Engine:
    """Not started yet. Imports only the chosen engine; raises EngineOptionsInvalid for options it does not have.

    `ranks` starts the other ranks of a gang, where the engine has one; without it they are child processes.
    """
    match config.engine.name:
        case "transformers":
            from autoglm_serving.engines.transformers_engine import TransformersEngine

            return TransformersEngine(config, ranks=ranks)
        case "vllm":
            from autoglm_serving.engines.vllm_engine import VllmEngine

            return VllmEngine(config)
