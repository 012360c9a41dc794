"""The vLLM engine on the same tiny model, against the transformers engine."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.interface import EngineOptionsInvalid
from support.models import answer, engine_config, request, screenshot
from support.processes import Process, runs, wait_until
from support.vllm_process import result_of, scenario

pytest.importorskip("vllm", reason="vLLM is an extra")
# vLLM is imported three times, one after the other, on a machine that may be ten times slower.
pytestmark = pytest.mark.timeout(1500)

DEADLINE_S = 1200.0


@pytest.fixture(scope="module")
def process(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The script's process, with its result written: one engine's life, and a second engine that runs."""
    with scenario("support.vllm_scenario", folder, tmp_path_factory.mktemp("vllm"), DEADLINE_S) as started:
        yield started


@pytest.fixture(scope="module")
def results(process: Process) -> dict[str, Any]:
    return result_of(process)


@pytest.mark.parametrize(("name", "image"), [("text", None), ("image", screenshot())])
async def test_greedy_answers_are_those_of_the_transformers_engine(
    results: dict[str, Any], folder: Path, name: str, image: Any
) -> None:
    engine = create_engine(engine_config(folder))
    try:
        await engine.start()
        text, deltas = await answer(engine, request("打开设置 open settings", image, 32))
    finally:
        await engine.close()
    last = deltas[-1]
    assert last.completion_tokens > 4, "the answer is too short to tell anything"
    assert results[name]["text"] == text
    assert {
        key: results[name][key] for key in ("finish_reason", "prompt_tokens", "completion_tokens", "image_tokens")
    } == {
        "finish_reason": last.finish_reason,
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "image_tokens": last.image_tokens,
    }


def test_the_start_is_told_by_its_parts_in_two_processes(results: dict[str, Any]) -> None:
    parts, took = results["start"]["parts"], results["start"]["took"]
    assert list(parts) == ["fetch", "imports", "tokenizer", "engine_process", "weights", "warm_up"]
    assert sum(parts.values()) == pytest.approx(took, abs=1.0)
    # The engine core imports vLLM anew; that it has loaded the weights it noted itself.
    assert parts["engine_process"] > parts["weights"] > 0


def test_the_logs_of_the_process_go_on(results: dict[str, Any]) -> None:
    assert results["start"]["logs"]


def test_an_answer_comes_in_pieces(results: dict[str, Any]) -> None:
    assert results["text"]["pieces"] > 5


def test_the_pixel_limit_of_a_request_makes_its_image_smaller(results: dict[str, Any]) -> None:
    assert results["large"]["image_tokens"] == 800
    assert results["limited"]["image_tokens"] == 200
    assert results["limited"]["finish_reason"] == "length"


def test_control_tokens_in_a_clients_text_do_no_harm(results: dict[str, Any]) -> None:
    assert results["hostile"]["image_tokens"] == 98
    assert results["hostile"]["completion_tokens"] >= 1


def test_answers_at_once_are_the_same_as_each_alone(results: dict[str, Any]) -> None:
    assert [one["text"] for one in results["together"]] == [results["image"]["text"], results["text"]["text"]]


def test_a_prompt_that_comes_again_is_known_to_its_own_tenant_alone_and_its_answer_is_the_same(
    results: dict[str, Any],
) -> None:
    first, again, other, other_again = results["repeated"]
    assert {one["text"] for one in results["repeated"]} == {first["text"]}
    assert other["cached_tokens"] == 0
    assert first["cached_tokens"] < again["cached_tokens"] == other_again["cached_tokens"] < first["prompt_tokens"]


def test_vllm_tells_what_its_processor_cache_did(results: dict[str, Any]) -> None:
    processor = results["caches"]["processor"]
    assert processor["hits"] >= 2, "a picture was sent again by each of two tenants"
    assert processor["misses"] >= 2
    assert processor["entries"] >= 2
    assert processor["held_bytes"] > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("int8", r"EngineOptionsInvalid: kvCacheDtype 'int8_per_token_head': vLLM on a CPU has 'auto', 'fp8'"),
        ("window", r"EngineOptionsInvalid: slidingWindow 1024: .* attend to the whole prompt"),
    ],
)
def test_what_vllm_cannot_do_here_is_refused_by_name(results: dict[str, Any], name: str, reason: str) -> None:
    assert re.match(reason, results[name])


def test_a_stop_string_ends_the_answer_before_it(results: dict[str, Any]) -> None:
    whole = results["text"]["text"]
    assert results["stopped"]["finish_reason"] == "stop"
    assert results["stopped"]["text"] == whole[: whole.index(whole[6:9])]


def test_sampling_with_a_seed_repeats(results: dict[str, Any]) -> None:
    first, again, other = (one["text"] for one in results["sampled"])
    assert first == again != other


def test_a_prompt_that_is_too_long_is_refused(results: dict[str, Any]) -> None:
    assert results["too_long"]["error"] == "PromptTooLong"


def test_closing_the_stream_aborts_the_answer_inside_vllm(results: dict[str, Any]) -> None:
    cancelled = results["cancelled"]
    assert (cancelled["first"], cancelled["running_before"]) == (None, 1)
    assert (cancelled["stats"]["running"], cancelled["stats"]["kv_tokens"]) == (0, 0)
    assert cancelled["stats"]["cancelled_total"] == 1
    assert results["after"]["text"] == results["text"]["text"]


def test_a_killed_engine_core_ends_the_open_answer_and_the_engine_is_dead(results: dict[str, Any]) -> None:
    killed = results["killed"]
    assert killed["killed"] >= 1, "nothing was killed"
    assert killed["open"]["error"] == "EngineDead"
    assert killed["check"] == "EngineDead"
    assert killed["next"]["error"] == "EngineDead"


def test_a_closed_engine_leaves_no_process_behind(results: dict[str, Any]) -> None:
    assert results["left"] == 0


def test_an_engine_can_be_started_again_after_one_has_died(results: dict[str, Any]) -> None:
    assert results["second"]["text"] == results["text"]["text"]


@pytest.mark.faults
def test_a_killed_replica_leaves_no_engine_process_behind(process: Process, results: dict[str, Any]) -> None:
    engines: list[int] = results["engines"]
    assert engines
    assert all(runs(pid) for pid in engines)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(runs(pid) for pid in engines), "the engine's processes have ended")


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"kvCacheGib": 0}, "kvCacheGib"), ({"gpuMemory": 0.9}, r"gpuMemory: .*gpuMemoryUtilization")],
)
def test_options_that_vllm_does_not_have_are_refused_with_those_it_has(
    folder: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EngineOptionsInvalid, match=reason):
        create_engine(engine_config(folder, "vllm", **options))


async def test_a_gang_that_does_not_divide_the_models_heads_is_refused_with_those_that_do(folder: Path) -> None:
    config = engine_config(folder, "vllm")
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"tensor_parallel": 3})})
    engine = create_engine(config)
    with pytest.raises(
        EngineOptionsInvalid, match=r"spec\.engine\.parallelism\.tensor 3 does not .*: set it to one of 1, 2"
    ):
        await engine.start()
    await engine.close()
