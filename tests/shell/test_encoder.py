"""Encoders and the replicas that ask them, in one process: everything but Ray's transport and its object store."""

import asyncio
import inspect
import io
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import torch
from PIL import Image
from ray.serve import Application
from ray.serve.exceptions import BackPressureError

from autoglm_serving.app.application import build_application
from autoglm_serving.app.calls import EncodedImage, Failure
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.encoder_calls import Features, WantedFeatures
from autoglm_serving.app.encoder_replica import EncoderReplica
from autoglm_serving.app.encoder_scaling import ByImageTokens
from autoglm_serving.app.engine_replica import EngineReplica, ModelUnavailable
from autoglm_serving.app.gang_actors import create_engine_on_ray
from autoglm_serving.app.pictures import PAUSE_S, SplitPictures
from autoglm_serving.app.room import Room
from autoglm_serving.config import AppConfig, EncoderConfig, EngineConfig, Worker
from autoglm_serving.encoders import RATE, Arrivals
from autoglm_serving.engines.interface import EncodedPicture, ImagePart
from autoglm_serving.engines.options import TransformersOptions, on_what_it_takes, parse_options
from autoglm_serving.engines.transformers_engine import TransformersEngine
from autoglm_serving.images import ImageSize
from autoglm_serving.wire import ApiError
from support.pictures import picture
from support.processes import until
from support.serving import app_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 120.0


class Stored:
    """What Ray's object store gives for a value."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield
        return self._value


class Handle:
    """A Serve handle of one encoder. `fault` is raised, or waited for; `answer` is given in place of the encoder's."""

    def __init__(self, encoder: EncoderReplica) -> None:
        self._encoder = encoder
        self.fault: BaseException | None = None
        self.hangs = False
        self.answer: Any = None
        self.asked = 0
        self.cancelled = 0

    @property
    def encode(self) -> "Handle":
        return self

    def remote(self, wanted: WantedFeatures) -> "Response":
        self.asked += 1
        return Response(self, self._encode(wanted))

    async def _encode(self, wanted: WantedFeatures) -> Any:
        if self.fault is not None:
            raise self.fault
        if self.hangs:
            await asyncio.Event().wait()
        return self.answer or await self._encoder.encode(wanted)


class Response:
    def __init__(self, handle: Handle, work: Any) -> None:
        self._handle = handle
        self._task = asyncio.ensure_future(work)

    def __await__(self) -> Generator[Any, None, Any]:
        result = yield from self._task
        return result

    def cancel(self) -> None:
        self._handle.cancelled += 1
        self._task.cancel()


class Engine:
    """What SplitPictures asks of an engine: the features that it still has."""

    def __init__(self) -> None:
        self.known: dict[str, torch.Tensor] = {}

    def known_features(self, key: str, _width: int, _height: int, max_pixels: int | None) -> torch.Tensor | None:
        return self.known.get(f"{key} {max_pixels}")


def config(**options: Any) -> AppConfig:
    return app_config(engine=EngineConfig(options=options), encoder=EncoderConfig())


def image(width: int = 56, height: int = 112) -> EncodedImage:
    return EncodedImage(picture(width, height), ImageSize(width, height, "png"), "here")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def encoder() -> AsyncIterator[EncoderReplica]:
    replica = EncoderReplica(arguments(config(visionBatchTokens=64)), put=Stored)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.close()


@pytest_asyncio.fixture(loop_scope="module")
async def parts(encoder: EncoderReplica) -> AsyncIterator[tuple[SplitPictures, Handle, Engine]]:
    decoder, handle, engine = Decoder(), Handle(encoder), Engine()
    try:
        yield SplitPictures(DecodedCache(decoder, 0), engine, handle, "rev-1", WAIT_S), handle, engine
    finally:
        decoder.close()


def arguments(value: AppConfig) -> dict[str, Any]:
    return value.model_dump(mode="json", by_alias=True)


def is_local(part: ImagePart) -> bool:
    return not isinstance(part.image, EncodedPicture)


async def test_features_come_with_the_pictures_size_and_key(
    parts: tuple[SplitPictures, Handle, Engine],
) -> None:
    pictures, _, _ = parts
    part = await pictures.part(image(), "tenant", None)
    assert isinstance(part.image, EncodedPicture)
    assert (part.image.width, part.image.height) == (56, 112)
    assert part.image.features.shape[0] == 2 * 4
    assert part.image.features.dtype == torch.float32
    again = await pictures.part(image(), "tenant", None)
    assert again.key == part.key
    assert (await pictures.part(image(), "other", None)).key != part.key


async def test_an_encoder_computes_an_image_once_for_all_who_ask_at_the_same_time(encoder: EncoderReplica) -> None:
    wanted = WantedFeatures(image(84, 84), "together", None)
    answers = await asyncio.gather(*(encoder.encode(wanted) for _ in range(4)))
    assert all(isinstance(each, Features) for each in answers)
    assert len({id(each) for each in answers}) == 1
    assert await encoder.encode(wanted) is answers[0]


async def test_images_of_one_size_share_a_call_and_have_the_features_of_a_call_alone(encoder: EncoderReplica) -> None:
    sent = [EncodedImage(picture(56, 112, mode=mode), ImageSize(56, 112, "png"), "here") for mode in ("RGB", "L")]
    both = await asyncio.gather(
        *(encoder.encode(WantedFeatures(each, f"batch {number}", None)) for number, each in enumerate(sent))
    )
    alone = EncoderReplica(arguments(config()), put=Stored)
    await alone.start()
    try:
        for number, each in enumerate(sent):
            single = await alone.encode(WantedFeatures(each, f"batch {number}", None))
            assert isinstance(single, Features)
            shared = both[number]
            assert isinstance(shared, Features)
            assert torch.allclose(await values(shared), await values(single), atol=1e-5)
    finally:
        await alone.close()


async def values(features: Features) -> torch.Tensor:
    return torch.tensor(await features.values).view(torch.float32)


async def test_arriving_tokens_are_the_figure_that_encoders_are_scaled_by(encoder: EncoderReplica) -> None:
    encoder._arrivals = Arrivals(window_s=1e6)
    for number in range(3):  # one of them is known, and arrives all the same
        await encoder.encode(WantedFeatures(image(280, 280), f"arrival {number % 2}", None))
    assert await encoder.record_autoscaling_stats() == {RATE: 300 / 1e6}


@pytest.mark.parametrize("figures", [EncoderReplica.record_autoscaling_stats, EngineReplica.record_routing_stats])
async def test_figures_for_serve_are_counted_on_the_event_loop(figures: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(figures), "Serve calls any other method in a thread of its own"


async def test_an_image_that_nobody_waits_for_any_more_is_not_computed(encoder: EncoderReplica) -> None:
    async with encoder._turns._turn:  # the tower is busy
        asked = asyncio.ensure_future(encoder.encode(WantedFeatures(image(112, 112), "left", None)))
        await until(lambda: bool(encoder._turns._waiting), "the image waits for the tower")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: not encoder._turns._waiting, "the image has been taken back")
    assert "left" not in " ".join(encoder._jobs)
    assert isinstance(await encoder.encode(WantedFeatures(image(112, 112), "left", None)), Features)


async def test_pictures_that_wait_for_the_tower_have_only_so_much_room(
    encoder: EncoderReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [WantedFeatures(image(112, 112 + 28 * number), f"room {number}", None) for number in range(4)]
    monkeypatch.setattr(encoder, "_room", Room(encoder._needed(sent[0]) + encoder._needed(sent[1])))
    async with encoder._turns._turn:  # the tower is busy
        asked = [asyncio.ensure_future(encoder.encode(each)) for each in sent]
        await until(lambda: len(encoder._turns._waiting) == 2, "two images are prepared")
        assert encoder._room.held == encoder._needed(sent[0]) + encoder._needed(sent[1])
    answers = await asyncio.gather(*asked)
    assert all(isinstance(each, Features) for each in answers)
    assert encoder._room.held == 0


async def test_an_image_is_prepared_into_as_many_bytes_as_was_expected(encoder: EncoderReplica) -> None:
    preparation = encoder._preparation
    assert preparation is not None
    pixels = preparation.prepare(Image.open(io.BytesIO(picture(300, 500))).convert("RGB"), 100_000).pixels
    assert preparation.prepared_bytes(300, 500, 100_000) == pixels.numel() * pixels.element_size()


async def test_what_the_engine_still_has_is_asked_of_nobody(parts: tuple[SplitPictures, Handle, Engine]) -> None:
    pictures, handle, engine = parts
    key = (await pictures.part(image(), "tenant", 50_000)).key
    engine.known[f"{key} 50000"] = torch.zeros(8, 4)
    asked = handle.asked
    part = await pictures.part(image(), "tenant", 50_000)
    assert isinstance(part.image, EncodedPicture)
    assert part.image.features is engine.known[f"{key} 50000"]
    assert handle.asked == asked


@pytest.mark.parametrize("fault", [RuntimeError("the actor died"), asyncio.CancelledError()])
async def test_a_lost_encoder_is_done_without_and_left_alone_for_a_while(
    encoder: EncoderReplica, fault: BaseException
) -> None:
    decoder, handle, now = Decoder(), Handle(encoder), 1000.0
    local = DecodedCache(decoder, 0)
    pictures = SplitPictures(local, Engine(), handle, "rev-1", WAIT_S, clock=lambda: now)
    handle.fault = fault
    try:
        assert is_local(await pictures.part(image(), "", None))
        handle.fault = None
        assert is_local(await pictures.part(image(), "", None))
        assert handle.asked == 1
        now += PAUSE_S
        assert not is_local(await pictures.part(image(), "", None))
        assert not is_local(await pictures.part(image(), "", None))
        assert handle.asked == 3
    finally:
        decoder.close()


async def test_the_wait_is_bounded_and_the_call_is_taken_back(encoder: EncoderReplica) -> None:
    decoder, handle = Decoder(), Handle(encoder)
    handle.hangs = True
    pictures = SplitPictures(DecodedCache(decoder, 0), Engine(), handle, "rev-1", 0.05)
    try:
        assert is_local(await pictures.part(image(), "", None))
        assert handle.cancelled == 1
    finally:
        decoder.close()


async def test_full_encoders_are_asked_again_at_once(parts: tuple[SplitPictures, Handle, Engine]) -> None:
    pictures, handle, _ = parts
    handle.fault = BackPressureError(num_queued_requests=1, max_queued_requests=1)
    assert is_local(await pictures.part(image(), "", None))
    handle.fault = None
    assert not is_local(await pictures.part(image(), "", None))


async def test_features_of_another_revision_are_never_used(
    parts: tuple[SplitPictures, Handle, Engine], encoder: EncoderReplica
) -> None:
    pictures, handle, _ = parts
    real = await encoder.encode(WantedFeatures(image(), "k", None))
    assert isinstance(real, Features)
    handle.answer = replace(real, revision="rev-0")
    assert is_local(await pictures.part(image(), "", None))


async def test_a_failing_tower_is_done_without(parts: tuple[SplitPictures, Handle, Engine]) -> None:
    pictures, handle, _ = parts
    handle.answer = Failure("internal_error", "the encoder failed on this image", elsewhere=True)
    assert is_local(await pictures.part(image(), "", None))


async def test_a_bad_image_is_refused_and_says_nothing_about_the_encoder(
    parts: tuple[SplitPictures, Handle, Engine],
) -> None:
    pictures, handle, _ = parts
    damaged = EncodedImage(picture(56, 112)[:-40], ImageSize(56, 112, "png"), "messages[1]")
    with pytest.raises(ApiError) as refused:
        await pictures.part(damaged, "", None)
    assert (refused.value.code, refused.value.param) == ("invalid_image", "messages[1]")
    assert not is_local(await pictures.part(image(), "", None))
    assert handle.asked == 2


async def test_an_encoder_that_refuses_an_image_after_a_pause_is_there_again(
    parts: tuple[SplitPictures, Handle, Engine],
) -> None:
    pictures, handle, _ = parts
    pictures._patience.failed(time.monotonic() - 2 * PAUSE_S)
    with pytest.raises(ApiError):
        await pictures.part(image(4000, 10), "", None)
    assert not is_local(await pictures.part(image(), "", None))
    assert handle.asked == 2


async def test_an_impossible_shape_is_refused(parts: tuple[SplitPictures, Handle, Engine]) -> None:
    with pytest.raises(ApiError) as refused:
        await parts[0].part(image(4000, 10), "", None)
    assert refused.value.code == "invalid_request"


def broken(_images: Any) -> None:
    raise RuntimeError("the device is lost")


async def test_an_encoder_whose_tower_fails_again_and_again_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = EncoderReplica(arguments(config()), put=Stored)
    await replica.start()
    try:
        monkeypatch.setattr(replica._tower, "encode", broken)
        for number in range(3):
            await replica.check_health()
            answer = await replica.encode(WantedFeatures(image(), f"broken {number}", None))
            assert isinstance(answer, Failure)
            assert answer.elsewhere
        with pytest.raises(RuntimeError):
            await replica.check_health()
    finally:
        await replica.close()


async def test_neither_encoders_nor_replicas_look_for_a_gpu_that_they_did_not_ask_for() -> None:
    assert EncoderReplica(arguments(config()), put=Stored)._options.device == "cpu"
    asked = app_config(encoder=EncoderConfig(worker=Worker(gpus=1)), worker=Worker(gpus=1))
    assert EncoderReplica(arguments(asked), put=Stored)._options.device == "auto"
    for wanted, device in ((app_config(), "cpu"), (asked, "auto")):
        engine = create_engine_on_ray(wanted)
        assert isinstance(engine, TransformersEngine)
        assert engine._options.device == device


@pytest.mark.parametrize(("there", "device"), [(True, "npu"), (False, "cpu")])
async def test_a_process_that_takes_an_npu_computes_on_it_where_torch_has_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: str
) -> None:
    package = ModuleType("torch_npu")
    package.__spec__ = ModuleSpec("torch_npu", None)
    monkeypatch.setitem(sys.modules, "torch_npu", package)
    monkeypatch.setattr(torch, "npu", SimpleNamespace(is_available=lambda: there), raising=False)
    for custom, wanted in (({"NPU": 1.0}, device), ({"shelf": 1.0}, "auto")):
        engine = on_what_it_takes(EngineConfig(), Worker(custom=custom))
        assert parse_options(TransformersOptions, engine).device == wanted


async def test_an_encoder_of_a_missing_model_says_so_in_one_line() -> None:
    replica = EncoderReplica(arguments(app_config(model={"name": "m", "uri": "file:///missing"})), put=Stored)
    with pytest.raises(ModelUnavailable, match=r"^ModelNotFound: /missing is not a folder on this machine$"):
        await replica.start()
    await replica.close()


async def test_an_engine_that_takes_no_features_is_refused_beside_encoders() -> None:
    vllm = app_config(engine=EngineConfig(name="vllm"), encoder=EncoderConfig())
    with pytest.raises(ModelUnavailable, match="'vllm' takes no encoder's features"):
        EngineReplica(arguments(vllm), encoder=object())


class Context:
    """What Serve's controller tells an autoscaling policy."""

    def __init__(self, rates: dict[str, list[float]] | None, target: int) -> None:
        """`rates`: what each encoder reported, one after the other."""
        told = {each: [SimpleNamespace(value=rate) for rate in figures] for each, figures in (rates or {}).items()}
        self.raw_metrics = {} if rates is None else {RATE: told}
        self.target_num_replicas = target


async def test_encoders_follow_what_they_reported_last_and_stay_as_they_are_before_they_do() -> None:
    policy = ByImageTokens(tokens_per_s=500)
    assert policy(Context({"a": [5000.0, 700.0], "b": [0.0, 400.0]}, 2)) == (3, {})
    assert policy(Context({"a": [900.0, 0.0], "b": []}, 3)) == (1, {})
    assert policy(Context({"a": []}, 2)) == (2, {})
    assert policy(Context(None, 4)) == (4, {})


async def test_the_application_has_encoders_only_where_they_are_asked_for() -> None:
    names = deployed(app_config())
    assert sorted(names) == ["Engine", "Ingress"]
    fixed = deployed(app_config(encoder=EncoderConfig(min_replicas=2, max_replicas=2)))["Encoder"]
    assert (fixed.num_replicas, fixed._deployment_config.autoscaling_config) == (2, None)
    scaled = deployed(app_config(encoder=EncoderConfig(max_replicas=3)))[
        "Encoder"
    ]._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas) == (1, 3)
    policy = scaled.policy.get_policy()(**scaled.policy.policy_kwargs)  # as Serve makes it
    assert policy(Context({"a": [1500.0]}, 1)) == (2, {})


def deployed(wanted: AppConfig) -> dict[str, Any]:
    """The Serve deployments of an application, by name."""
    found: dict[str, Any] = {}

    def walk(application: Any) -> None:
        found[application._bound_deployment.name] = application._bound_deployment
        for each in application._bound_deployment.init_args:
            if isinstance(each, Application):
                walk(each)

    walk(build_application(arguments(wanted)))
    return found
