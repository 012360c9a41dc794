"""What tests ask of vLLM where it runs: functions of a started engine (`RemoteEngine.ask`)."""

import logging.handlers
from typing import Any

_log = logging.handlers.MemoryHandler(1, target=logging.NullHandler())
"""Made before vLLM is imported: a log such as Serve's."""


def unfinished(engine: Any) -> int:
    """Requests that vLLM itself still has."""
    count: int = engine._llm.get_num_unfinished_requests()
    return count


def logs(_engine: Any) -> bool:
    """Whether the log that was there first still has its file."""
    return _log.target is not None


def room(engine: Any) -> tuple[int, int]:
    """Blocks that hold keys and values, and tokens in each."""
    cache = engine._llm.vllm_config.cache_config
    return cache.num_gpu_blocks, cache.block_size
