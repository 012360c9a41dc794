"""What the vLLM engine alone has, on a real, tiny model; what every engine does is in `test_vllm_and_transformers`."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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


@pytest.fixture(scope="module")
def hosts(
    vllm_process: EngineProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], EngineProcess]]:
    """The process that all share. Once a test has killed it, another one: what a test kills is there when it runs again."""
    with ExitStack() as started:
        known = [vllm_process]

        def running() -> EngineProcess:
            if not known[-1].process.running:
                process = EngineProcess("vllm again", tmp_path_factory.mktemp("vllm") / "log")
                known.append(started.enter_context(process))
            return known[-1]

        yield running


@pytest.fixture
def to_kill(hosts: Callable[[], EngineProcess]) -> Iterator[EngineProcess]:
    """The process, which ends with the test also when the test fails before it kills it."""
    host = hosts()
    yield host
    host.process.kill()


@pytest.fixture(scope="module")
def engines(vllm: RemoteEngine, hosts: Callable[[], EngineProcess]) -> Callable[[], RemoteEngine]:
    """The same of the engine that all share, which is gone when its engine core is."""
    known = [vllm]

    def running() -> RemoteEngine:
        host = known[-1].host.process
        if not host.running or not engine_cores(host.pid):
            known.append(hosts().engine(vllm.config).start_and_wait())
        return known[-1]

    return running


def test_the_start_is_told_by_its_parts_in_two_processes(vllm: RemoteEngine) -> None:
    parts = vllm.start_seconds()
    assert list(parts) == ["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
    # What the test measured has the way between the processes in it, which takes the longer the busier the machine is.
    assert 0.8 * vllm.start_took - 1.0 <= sum(parts.values()) <= vllm.start_took
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


async def test_a_killed_engine_core_ends_the_open_answer_and_the_engine_is_dead(
    engines: Callable[[], RemoteEngine],
) -> None:
    vllm = engines()
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
    to_kill: EngineProcess, folder: Path
) -> None:
    """After an engine of the same process has died: another can be started there."""
    asked = [request(TEXT, None, 32), request(TEXT, screenshot(), 32), request(TEXT, screenshot(seed=3), 32)]
    reference = Reference.of(folder)
    expected = [
        reference.ids(TEXT, None, 32),
        reference.ids(TEXT, screenshot(), 32),
        reference.ids(TEXT, screenshot(seed=3), 32),
    ]
    gang = to_kill.engine(vllm_gang_config(folder, RANKS))
    await gang.start()
    told = [await answer(gang, each) for each in asked[:2]]
    told += await asyncio.gather(*(answer(gang, each) for each in (asked[2], asked[0])))
    assert [text for text, _ in told] == [reference.text(ids) for ids in (*expected, expected[0])]
    assert min(map(len, expected)) > 4, "the answers are too short to tell anything"

    processes = engine_cores(to_kill.process.pid)
    assert len(processes) == 1 + RANKS
    assert sum("Worker" in title(pid) for pid in processes) == RANKS
    os.kill(to_kill.process.pid, signal.SIGKILL)
    to_kill.process.wait()
    await until(lambda: not any(runs(pid) for pid in processes), "the engine core and its ranks have ended")


def test_a_test_that_runs_again_finds_what_it_killed(hosts: Callable[[], EngineProcess]) -> None:
    first = hosts()
    assert hosts() is first
    first.process.kill()
    assert hosts().process.running
    assert hosts().process.pid != first.process.pid
