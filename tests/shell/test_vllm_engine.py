"""What the vLLM engine alone has, on a real, tiny model; what every engine does is in `test_vllm_and_transformers`."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.engines.interface import EngineDead, EngineOptionsInvalid
from support import vllm_facts
from support.engine_process import EngineProcess, RemoteEngine
from support.gangs import vllm_gang_config
from support.models import answer, endless, engine_config, request, screenshot
from support.processes import engine_cores, runs, title, until
from support.reference import Reference

# vLLM is imported six times, some of them one after the other, on a machine that may be ten times slower.
pytestmark = pytest.mark.timeout(2400)

RANKS = 2
TEXT = "打开设置 open settings"


def test_the_start_is_told_by_its_parts_in_two_processes(vllm: RemoteEngine) -> None:
    parts = vllm.start_seconds()
    assert list(parts) == ["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
    assert sum(parts.values()) == pytest.approx(vllm.start_took, abs=1.0)
    # The engine core imports vLLM anew; that it has loaded the weights it noted itself.
    assert parts["engine_process"] > parts["weights"] > 0


async def test_the_logs_of_the_process_go_on(vllm: RemoteEngine) -> None:
    assert await vllm.ask(vllm_facts.logs)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"kvCacheDtype": "int8_per_token_head"},
            r"^kvCacheDtype 'int8_per_token_head': vLLM on a CPU has 'auto', 'fp8'",
        ),
        ({"slidingWindow": 1024}, r"^slidingWindow 1024: .* attend to the whole prompt"),
    ],
)
async def test_what_vllm_cannot_do_here_is_refused_by_name(
    vllm_process: EngineProcess, folder: Path, options: dict[str, Any], reason: str
) -> None:
    engine = vllm_process.engine(engine_config(folder, "vllm", **options))
    with pytest.raises(EngineOptionsInvalid, match=reason):
        await engine.start()
    await engine.close()


async def test_vllm_tells_what_its_processor_cache_did(vllm: RemoteEngine) -> None:
    before = vllm.stats().caches["processor"]
    picture = screenshot(seed=11)
    for _ in range(3):
        await answer(vllm, request(image=picture, max_new_tokens=2))
    processor = vllm.stats().caches["processor"]
    assert (processor.hits - before.hits, processor.misses - before.misses) == (2, 1)
    assert processor.entries >= 1
    assert processor.held_bytes > 0


async def test_closing_the_stream_aborts_the_answer_inside_vllm(vllm: RemoteEngine) -> None:
    stream = vllm.generate(endless())
    await anext(stream)
    assert await vllm.ask(vllm_facts.unfinished) == 1
    await stream.aclose()
    async with asyncio.timeout(120):
        while await vllm.ask(vllm_facts.unfinished):
            await asyncio.sleep(0.05)


async def test_a_killed_engine_core_ends_the_open_answer_and_the_engine_is_dead(vllm: RemoteEngine) -> None:
    cores = engine_cores(vllm.host.process.pid)
    assert cores
    open_answer = asyncio.create_task(answer(vllm, endless()))
    before = vllm.stats().completion_tokens_total
    await until(lambda: vllm.stats().completion_tokens_total > before + 2, "it is answering")
    for pid in cores:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineDead):
        await open_answer
    with pytest.raises(EngineDead):
        await vllm.check()
    with pytest.raises(EngineDead):
        await answer(vllm, request())
    await vllm.close()
    await until(lambda: not engine_cores(vllm.host.process.pid), "a closed engine leaves no process behind")


@pytest.mark.faults
async def test_a_gang_gives_the_tokens_of_one_process_and_a_killed_replica_leaves_no_rank_behind(
    vllm_process: EngineProcess, folder: Path
) -> None:
    """After an engine of the same process has died: another can be started there."""
    asked = [request(TEXT, None, 32), request(TEXT, screenshot(), 32), request(TEXT, screenshot(seed=3), 32)]
    reference = Reference.of(folder)
    expected = [
        reference.ids(TEXT, None, 32),
        reference.ids(TEXT, screenshot(), 32),
        reference.ids(TEXT, screenshot(seed=3), 32),
    ]
    gang = vllm_process.engine(vllm_gang_config(folder, RANKS))
    await gang.start()
    told = [await answer(gang, each) for each in asked[:2]]
    told += await asyncio.gather(*(answer(gang, each) for each in (asked[2], asked[0])))
    assert [text for text, _ in told] == [reference.text(ids) for ids in (*expected, expected[0])]
    assert min(map(len, expected)) > 4, "the answers are too short to tell anything"

    processes = engine_cores(vllm_process.process.pid)
    assert len(processes) == 1 + RANKS
    assert sum("Worker" in title(pid) for pid in processes) == RANKS
    os.kill(vllm_process.process.pid, signal.SIGKILL)
    vllm_process.process.wait()
    await until(lambda: not any(runs(pid) for pid in processes), "the engine core and its ranks have ended")
