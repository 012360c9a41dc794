"""The engine that a configuration names."""

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.interface import Engine


def create_engine(config: AppConfig) -> Engine:
    """Not started yet. Imports only the chosen engine; raises EngineOptionsInvalid for options it does not have."""
    match config.engine.name:
        case "transformers":
            from autoglm_serving.engines.transformers_engine import TransformersEngine

            return TransformersEngine(config)
        case "vllm":
            from autoglm_serving.engines.vllm_engine import VllmEngine

            return VllmEngine(config)
