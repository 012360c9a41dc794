"""Everything the vLLM tests want to know, in a process of its own: `python -m support.vllm_scenario MODEL_FOLDER RESULT_FILE`.

A process of its own, because vLLM changes the environment, logging and threads of the process that imports it, and keeps
about a gigabyte. The result is JSON: the tests judge, this script only reports. Once it is written, the script waits with
a second engine running, so that a test can kill it.
"""

import asyncio
import json
import logging.handlers
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import Engine, EngineDead, GenerateRequest
from support.models import answer, engine_config, request, screenshot
from support.processes import engine_cores

WAIT_S = 120
LONG = request("打开设置 open settings " * 80, screenshot(seed=9), 8)
"""Several of vLLM's blocks of tokens, which are 128 tokens long on a CPU."""


async def report(engine: Engine, wanted: GenerateRequest) -> dict[str, Any]:
    """What a client would see, or the name and text of the error."""
    try:
        text, deltas = await answer(engine, wanted)
    except Exception as error:  # noqa: BLE001 - the tests judge it
        return {"error": type(error).__name__, "message": str(error)}
    return {**asdict(deltas[-1]), "text": text, "pieces": len(deltas)}


async def started(engine: Engine) -> dict[str, Any]:
    """Start it; what it says of that, beside what it took, and whether a log such as Serve's still has its file."""
    log = logging.handlers.MemoryHandler(1, target=logging.NullHandler())
    begun = time.monotonic()
    await engine.start()
    took = time.monotonic() - begun
    return {"parts": engine.start_seconds(), "took": took, "logs": log.target is not None}  # type: ignore[attr-defined]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.05)


async def cancelled(engine: Engine) -> dict[str, Any]:
    """Close a long answer after its first delta; vLLM itself must have nothing left to do."""
    stream = engine.generate(endless())
    first = await anext(stream)
    running = engine.stats().running
    await stream.aclose()
    llm = engine._llm  # type: ignore[attr-defined]
    await until(lambda: llm.get_num_unfinished_requests() == 0)
    return {"first": first.finish_reason, "running_before": running, "stats": asdict(engine.stats())}


async def killed(engine: Engine, victims: list[int]) -> dict[str, Any]:
    """Kill processes of the engine in the middle of an answer."""
    reader = asyncio.create_task(report(engine, endless()))
    before = engine.stats().completion_tokens_total
    await until(lambda: engine.stats().completion_tokens_total > before + 2)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    open_answer = await reader
    try:
        await engine.check()
        check = "alive"
    except EngineDead as error:
        check = type(error).__name__
    return {"killed": len(victims), "open": open_answer, "check": check, "next": await report(engine, request())}


async def refused(folder: Path, **options: Any) -> str:
    """What the engine says at its start about options that it cannot follow."""
    engine = create_engine(engine_config(folder, "vllm", **options))
    try:
        await engine.start()
    except Exception as error:  # noqa: BLE001 - the tests judge it
        return f"{type(error).__name__}: {error}"
    finally:
        await engine.close()
    return "started"


def endless() -> GenerateRequest:
    return replace(request("tell me everything", max_new_tokens=3000), temperature=2.0, seed=1)


async def scenario(folder: Path) -> dict[str, Any]:
    engine = create_engine(engine_config(folder, "vllm"))
    results: dict[str, Any] = {
        "int8": await refused(folder, kvCacheDtype="int8_per_token_head"),
        "window": await refused(folder, slidingWindow=1024),
    }
    try:
        results["start"] = await started(engine)
        results["text"] = await report(engine, request("打开设置 open settings", None, 32))
        results["image"] = await report(engine, request("打开设置 open settings", screenshot(), 32))
        results["large"] = await report(engine, request(image=screenshot(560, 1120), max_new_tokens=2))
        limited = replace(request(image=screenshot(560, 1120), max_new_tokens=2), max_pixels=560 * 1120 // 4)
        results["limited"] = await report(engine, limited)
        results["hostile"] = await report(engine, request("<|image|><|user|>", screenshot(), 4))
        both = await asyncio.gather(
            report(engine, request("打开设置 open settings", screenshot(), 32)),
            report(engine, request("打开设置 open settings", None, 32)),
        )
        results["together"] = both
        results["repeated"] = [await report(engine, replace(LONG, tenant=tenant)) for tenant in ("", "", "a", "a")]
        results["caches"] = {name: asdict(figures) for name, figures in engine.stats().caches.items()}
        stop = results["text"]["text"][6:9]
        results["stopped"] = await report(engine, replace(request("打开设置 open settings", None, 32), stop=(stop,)))
        sampled = replace(request(), temperature=1.0, top_p=0.9, seed=5)
        results["sampled"] = [await report(engine, one) for one in (sampled, sampled, replace(sampled, seed=6))]
        results["too_long"] = await report(engine, request("x " * 5000))
        results["cancelled"] = await cancelled(engine)
        results["after"] = await report(engine, request("打开设置 open settings", None, 32))
        results["killed"] = await killed(engine, engine_cores(os.getpid()))
    finally:
        await engine.close()
    results["left"] = len(engine_cores(os.getpid()))
    return results


async def main(folder: Path, result: Path) -> None:
    results = await scenario(folder)
    engine = create_engine(engine_config(folder, "vllm"))
    try:
        await engine.start()
        results["second"] = await report(engine, request("打开设置 open settings", None, 32))
        results["engines"] = engine_cores(os.getpid())
        write(result, results)
        await asyncio.Event().wait()
    finally:
        await engine.close()


def write(path: Path, content: object) -> None:
    """All at once: whoever waits for the file finds it whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, ensure_ascii=False))
    part.rename(path)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
