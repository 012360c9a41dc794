"""Tensor-parallel gangs: one model over several processes, which answer as one and die as one."""

import asyncio
import os
import pickle
import queue
import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from autoglm_serving.engines import sharded_model
from autoglm_serving.engines.factory import create_engine
from autoglm_serving.engines.gang.leader import Gang
from autoglm_serving.engines.gang.messages import refusal
from autoglm_serving.engines.gang.processes import ChildRanks
from autoglm_serving.engines.gang.seat import Seat
from autoglm_serving.engines.interface import Delta, EngineDead, EngineOptionsInvalid, GenerateRequest
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.engines.quantised import weight_bytes
from autoglm_serving.engines.transformers_engine import TransformersEngine
from autoglm_serving.model.errors import ModelInvalid, ModelNotFound
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import load_weights
from autoglm_serving.model.tiny import build
from support.gangs import GangEngine, ended, gang_config, pids
from support.models import answer, engine_config, request, screenshot
from support.processes import wait_until
from support.thread_group import ThreadGroup

DEADLINE_S = 180.0
PICTURE = request("打开设置 open settings", screenshot(), 24)
LONG = request("打开设置 open settings " * 40, screenshot(seed=5), 8)
ENDLESS = request("count for ever", None, 3000)
CPU = torch.device("cpu")


async def alone(folder: Path, *wanted: GenerateRequest) -> list[str]:
    """The answers of one process."""
    engine = create_engine(engine_config(folder))
    try:
        await engine.start()
        return [(await answer(engine, each))[0] for each in wanted]
    finally:
        await engine.close()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_two_ranks_answer_as_one_process_does_and_a_lost_one_ends_the_gang_and_all_open_answers(
    folder: Path,
) -> None:
    expected = await alone(folder, PICTURE, LONG)
    engine = GangEngine(gang_config(folder))
    try:
        await engine.start()
        together = await asyncio.gather(*(answer(engine, each) for each in (PICTURE, LONG)))
        assert [text for text, _ in together] == expected
        again, deltas = await answer(engine, LONG)
        assert again == expected[1], "a prompt that is known in part has another answer"
        assert deltas[-1].cached_tokens > 0

        stream = engine.generate(ENDLESS)
        await anext(stream)
        os.kill(pids(engine.children)[0], signal.SIGKILL)
        with pytest.raises(EngineDead, match=r"rank 1 is gone|rank 0 failed"):
            await asyncio.wait_for(rest(stream), DEADLINE_S)
        with pytest.raises(EngineDead):
            await engine.check()
        with pytest.raises(EngineDead):
            await answer(engine, request())
    finally:
        await engine.close()
    assert ended(engine.children)


async def rest(stream: AsyncGenerator[Delta, None]) -> None:
    async for _ in stream:
        pass


def read(model: Any) -> list[int]:
    """Twelve greedy tokens about a picture and some words, with everything that a part of the model is asked for."""
    grid = torch.tensor([[1, 8, 12]])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(96, 1176, generator=generator)
    words = torch.randint(0, 300, (1, 20), generator=generator)
    with torch.inference_mode():
        features = model.model.visual(pixels, grid_thw=grid, return_dict=True).pooler_output
        vectors = torch.cat([model.get_input_embeddings()(words), features[None]], dim=1)
        cache = DynamicCache(config=model.config.get_text_config())
        place = torch.arange(vectors.shape[1]).expand(3, 1, -1)
        output = model(inputs_embeds=vectors, position_ids=place, past_key_values=cache, logits_to_keep=1)
        tokens: list[int] = []
        for _ in range(12):
            tokens.append(int(output.logits[0, -1].argmax()))
            place = torch.full((3, 1, 1), int(place.max()) + 1)
            output = model(
                input_ids=torch.tensor([tokens[-1:]]), position_ids=place, past_key_values=cache, logits_to_keep=1
            )
    return tokens


@pytest.mark.parametrize(
    ("ranks", "text", "vision", "share"),
    [
        (4, {}, {}, 0.45),  # two heads of keys and values: the language model's attention is whole on each rank
        (2, {"num_key_value_heads": 1}, {"num_heads": 1}, 0.65),  # neither attention divides
        (2, {"num_key_value_heads": 4}, {"attention_bias": True}, 0.55),  # three biases in one
    ],
)
def test_the_parts_of_all_ranks_compute_what_the_whole_model_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    text: dict[str, Any],
    vision: dict[str, Any],
    share: float,
) -> None:
    build(tmp_path, text=text, vision=vision)
    folder = check_folder(tmp_path)
    whole = load_weights(folder, torch.float32, CPU)
    group = ThreadGroup(ranks)
    monkeypatch.setattr(sharded_model, "dist", group)
    plan = sharded_model.plan_for(folder, ranks)
    parts = [sharded_model.load_shard(folder, plan, rank, torch.float32, CPU) for rank in range(ranks)]
    assert group.run(lambda rank: read(parts[rank])) == [read(whole)] * ranks
    assert max(weight_bytes(part) for part in parts) < share * weight_bytes(whole)


@pytest.mark.parametrize("named", [{}, {"NCCL_SOCKET_IFNAME": "eth1"}])
def test_what_carries_the_sums_listens_on_the_loopback_interface_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, str]
) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda **_: seen.update(os.environ))
    monkeypatch.setattr("autoglm_serving.engines.gang.seat.os.environ", dict(named))
    Seat(0, 1, tmp_path, "shared", 1.0).join(CPU)
    assert seen == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", **named}


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gang, ChildRanks, "queue.SimpleQueue[str]"]]:
    """A loaded gang of three ranks without a model, its child processes, and why it died."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    children, deaths = ChildRanks("support.gang_stub"), queue.SimpleQueue[str]()
    gang = Gang(3, 20.0, children, deaths.put)
    try:
        gang.start(Path("/no/model"), TransformersOptions(), DEADLINE_S)
        gang.wait_loaded(DEADLINE_S)
        yield gang, children, deaths
    finally:
        gang.close()
    assert ended(children)


@pytest.mark.parametrize(
    ("sign", "reason"), [(signal.SIGSTOP, "rank 2 has said nothing for"), (signal.SIGKILL, "rank 2 is gone")]
)
def test_a_rank_that_hangs_or_ends_takes_all_others_with_it(
    stubs: tuple[Gang, ChildRanks, "queue.SimpleQueue[str]"], sign: signal.Signals, reason: str
) -> None:
    gang, children, deaths = stubs
    assert list(gang.weight_bytes) == [1001, 1002]
    os.kill(pids(children)[1], sign)
    assert reason in deaths.get(timeout=DEADLINE_S)
    wait_until(lambda: ended(children), "every rank has ended")
    with pytest.raises(EngineDead, match=reason):
        gang.wait_loaded(1)


def test_a_rank_that_refuses_its_configuration_says_so_as_rank_0_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("GANG_STUB_REFUSES", "2")
    children = ChildRanks("support.gang_stub")
    gang = Gang(3, 20.0, children, lambda _reason: None)
    try:
        gang.start(Path("/no/model"), TransformersOptions(), DEADLINE_S)
        with pytest.raises(EngineOptionsInvalid, match=r"^needs 2 cuda devices here and there are 1$"):
            gang.wait_loaded(DEADLINE_S)
    finally:
        gang.close()
    assert ended(children)


@pytest.mark.parametrize(
    "error", [ModelInvalid("no weights"), ModelNotFound("no folder"), EngineOptionsInvalid("no device")]
)
def test_a_refusal_travels_with_its_class_and_text(error: Exception) -> None:
    error.__cause__ = ValueError(lambda: "not to be pickled")
    arrived = pickle.loads(pickle.dumps(refusal(error)))
    assert (type(arrived), str(arrived)) == (type(error), str(error))
    assert refusal(RuntimeError("out of memory")) is None


class Clock:
    """In the place of the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class SlowGang:
    """Its ranks take most of the time that there is to connect."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.given: list[float] = []

    @property
    def seat(self) -> None:
        return None

    def start(self, _model: Path, _options: TransformersOptions, deadline_s: float) -> None:
        self.given.append(deadline_s)
        self._clock.now += 70

    def wait_loaded(self, deadline_s: float) -> None:
        self.given.append(deadline_s)


def test_the_time_to_start_is_given_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("autoglm_serving.engines.transformers_engine.time", clock)
    monkeypatch.setattr("autoglm_serving.engines.gang.part.load_part", lambda *_: None)
    monkeypatch.setattr("autoglm_serving.engines.gang.lead.lead", lambda *_: None)
    gang: Any = SlowGang(clock)
    TransformersEngine(gang_config(folder, options={"gangStartS": 100}))._gather(check_folder(folder), gang)
    assert gang.given == [100, 30]


async def test_a_rank_that_does_not_start_is_told_and_nothing_stays_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = GangEngine(gang_config(folder))
    with pytest.raises(EngineDead, match="rank 1 ended before it was there: exit code 3"):
        await engine.start()
    await engine.close()
    assert ended(engine.children)


async def test_a_model_that_does_not_divide_is_refused_before_any_rank_is_started(folder: Path) -> None:
    engine = GangEngine(gang_config(folder, ranks=5))
    with pytest.raises(EngineOptionsInvalid, match=r"spec\.engine\.parallelism\.tensor 5 does not divide .* 1, 2, 4"):
        await engine.start()
    await engine.close()
    assert pids(engine.children) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"variant": "int8-weight"}, "variant 'int8-weight' does not go with spec.engine.parallelism.tensor 2"),
        ({"device": "cuda:1"}, "device 'cuda:1' does not go with spec.engine.parallelism.tensor 2"),
    ],
)
def test_options_that_belong_to_one_process_are_refused(folder: Path, options: dict[str, str], reason: str) -> None:
    with pytest.raises(EngineOptionsInvalid, match=reason):
        create_engine(gang_config(folder, options=options))
