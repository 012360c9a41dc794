"""What a gang of vLLM does, in a process of its own: `python -m support.vllm_gang_scenario MODEL_FOLDER RESULT_FILE`.

As in support.vllm_scenario the result is JSON and the tests judge. Once it is written, the script waits with a second gang,
so that a test can kill it.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from autoglm_serving.config import AppConfig
from autoglm_serving.engines.factory import create_engine
from support.models import engine_config, request, screenshot
from support.processes import engine_cores, title
from support.vllm_scenario import killed, report, started, write

RANKS = 2
TEXT = "打开设置 open settings"


def gang(folder: Path) -> AppConfig:
    config = engine_config(folder, "vllm")
    return config.model_copy(update={"engine": config.engine.model_copy(update={"tensor_parallel": RANKS})})


def ranks() -> list[int]:
    """Process ids of the ranks, without the engine core above them."""
    return [pid for pid in engine_cores(os.getpid()) if "Worker" in title(pid)]


async def main(folder: Path, result: Path) -> None:
    results: dict[str, Any] = {}
    engine = create_engine(gang(folder))
    try:
        results["start"] = await started(engine)
        results["ranks"] = len(ranks())
        results["text"] = await report(engine, request(TEXT, None, 32))
        results["image"] = await report(engine, request(TEXT, screenshot(), 32))
        results["together"] = await asyncio.gather(
            report(engine, request(TEXT, screenshot(seed=3), 32)), report(engine, request(TEXT, None, 32))
        )
        results["killed"] = await killed(engine, ranks()[1:])
    finally:
        await engine.close()
    results["left"] = len(engine_cores(os.getpid()))
    engine = create_engine(gang(folder))
    try:
        await engine.start()
        results["second"] = await report(engine, request(TEXT, None, 32))
        results["engines"] = engine_cores(os.getpid())
        write(result, results)
        await asyncio.Event().wait()
    finally:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
