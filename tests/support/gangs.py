"""Gangs as tests start them. Of the transformers engine rank 0 is in this process, the others are its children."""

from collections.abc import Mapping
from pathlib import Path

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.gang.processes import ChildRanks
from autoglm_serving.engines.transformers_engine import TransformersEngine
from support.models import engine_config

PATIENCE_S = 600
"""A machine that is ten times slower makes ranks wait for each other."""


def gang_config(folder: Path, ranks: int = 2, options: Mapping[str, str | float] | None = None) -> AppConfig:
    """Like `engine_config`, split over `ranks`."""
    config = engine_config(folder)
    own = {"device": "cpu", "rankPatienceS": PATIENCE_S, **(options or {})}
    engine = config.engine.model_copy(update={"tensor_parallel": ranks, "options": own})
    return config.model_copy(update={"engine": engine})


def vllm_gang_config(folder: Path, ranks: int = 2) -> AppConfig:
    """The same of vLLM, whose ranks are processes below its engine core."""
    config = engine_config(folder, "vllm")
    return config.model_copy(update={"engine": config.engine.model_copy(update={"tensor_parallel": ranks})})


class GangEngine(TransformersEngine):
    """An engine whose ranks a test can reach."""

    def __init__(self, config: AppConfig) -> None:
        self.children = ChildRanks()
        super().__init__(config, ranks=self.children)


def pids(children: ChildRanks) -> list[int]:
    """Process ids of the ranks other than the first."""
    return [child.process.pid for child in children.started]


def ended(children: ChildRanks) -> bool:
    """Whether all these processes have ended."""
    return all(child.ended() is not None for child in children.started)
