"""vLLM over two ranks: the tokens of one process, and processes that end together."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.engines.factory import create_engine
from support.models import answer, engine_config, request, screenshot
from support.processes import Process, runs, wait_until
from support.vllm_gang_scenario import RANKS, TEXT
from support.vllm_process import result_of, scenario

pytest.importorskip("vllm", reason="vLLM is an extra")
# Seven processes import vLLM, some of them one after the other, on a machine that may be ten times slower.
pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(2400)]

DEADLINE_S = 2000.0


@pytest.fixture(scope="module")
def process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The script's process, with its result written: one gang's life, and a second gang that runs."""
    with scenario("support.vllm_gang_scenario", folder, tmp_path_factory.mktemp("vllm"), DEADLINE_S) as started:
        yield started


@pytest.fixture(scope="module")
def results(process: Process) -> dict[str, Any]:
    return result_of(process)


def test_a_gang_tells_what_its_start_took(results: dict[str, Any]) -> None:
    parts, took = results["start"]["parts"], results["start"]["took"]
    assert list(parts) == ["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
    assert sum(parts.values()) == pytest.approx(took, abs=1.0)
    # The ranks are processes of their own, which load while the engine core waits.
    assert parts["weights"] > parts["fetch"]


async def test_two_ranks_give_the_tokens_of_one_process(results: dict[str, Any], folder: Path) -> None:
    # The transformers engine stands for one process: vLLM with one rank gives its tokens too (test_vllm_engine).
    asked = [request(TEXT, None, 32), request(TEXT, screenshot(), 32), request(TEXT, screenshot(seed=3), 32)]
    engine = create_engine(engine_config(folder))
    try:
        await engine.start()
        expected = [(await answer(engine, each))[0] for each in asked]
    finally:
        await engine.close()
    assert results["ranks"] == RANKS
    told = [results["text"], results["image"], *results["together"]]
    assert [each["text"] for each in told] == [*expected, expected[0]]
    assert all(each["completion_tokens"] > 4 for each in told), "the answers are too short to tell anything"


def test_a_killed_rank_ends_the_open_answer_and_the_whole_gang(results: dict[str, Any]) -> None:
    killed = results["killed"]
    assert killed["killed"] == 1
    assert (killed["open"]["error"], killed["check"], killed["next"]["error"]) == ("EngineDead",) * 3
    assert results["left"] == 0


def test_a_gang_can_be_started_again_after_one_has_died(results: dict[str, Any]) -> None:
    assert results["second"]["text"] == results["text"]["text"]


def test_a_killed_replica_leaves_no_rank_behind(process: Process, results: dict[str, Any]) -> None:
    engines: list[int] = results["engines"]
    assert len(engines) == 1 + RANKS
    assert all(runs(pid) for pid in engines)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(runs(pid) for pid in engines), "the engine core and its ranks have ended")
