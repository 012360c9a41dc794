"""vLLM over two ranks: processes that start and end together. That their tokens are one process's is in `test_vllm_engine`."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoglm_serving.engines.interface import EngineDead
from support.engine_process import HAS_VLLM, EngineProcess, RemoteEngine
from support.gangs import vllm_gang_config
from support.models import answer, endless, request
from support.processes import engine_cores, title, until

# Four processes import vLLM, some of them one after the other, on a machine that may be ten times slower.
pytestmark = [
    pytest.mark.skipif(not HAS_VLLM, reason="vLLM is an extra"),
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(2400),
]


@pytest.fixture(scope="module")
def gang(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    with EngineProcess("vllm gang", tmp_path_factory.mktemp("vllm") / "log") as process:
        yield process.engine(vllm_gang_config(folder)).start_and_wait()


def test_a_gang_tells_what_its_start_took(gang: RemoteEngine) -> None:
    parts = gang.start_seconds()
    assert list(parts) == ["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
    assert sum(parts.values()) == pytest.approx(gang.start_took, abs=1.0)
    # The ranks are processes of their own, which load while the engine core waits.
    assert parts["weights"] > parts["fetch"]


async def test_a_killed_rank_ends_the_open_answer_and_the_whole_gang(gang: RemoteEngine) -> None:
    ranks = [pid for pid in engine_cores(gang.host.process.pid) if "Worker" in title(pid)]
    assert len(ranks) == 2
    open_answer = asyncio.create_task(answer(gang, endless()))
    await until(lambda: gang.stats().completion_tokens_total > 2, "it is answering")
    os.kill(ranks[1], signal.SIGKILL)
    with pytest.raises(EngineDead):
        await open_answer
    with pytest.raises(EngineDead):
        await gang.check()
    with pytest.raises(EngineDead):
        await answer(gang, request())
    await gang.close()
    await until(lambda: not engine_cores(gang.host.process.pid), "nothing of the gang is left")
