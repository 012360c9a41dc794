"""The application without Ray's transport: HTTP side, decoding and one or two engine replicas in this process."""

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request
from typing_extensions import override

from autoglm_serving.app.body import BufferSpace, read_body
from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.engine_replica import EngineReplica, ModelUnavailable
from autoglm_serving.app.replicas import ACCEPT_TIMEOUT_S, DIRECT_BYTES, Replicas
from autoglm_serving.app.translate import to_call
from autoglm_serving.config import Limits, ModelConfig
from autoglm_serving.engines.interface import ImagePart, TextPart
from autoglm_serving.images import ImageSize
from autoglm_serving.protocol import parse_chat
from autoglm_serving.wire import ApiError
from support import virtual_time
from support.mutations import DEPTH, mutated
from support.pictures import animation, bombs, data_url, picture, png_bomb, png_header
from support.scripted_engine import SECRET, ScriptedEngine
from support.serving import MODEL, Handle, app_config, serving

CHAT = "/v1/chat/completions"
URL = "messages[0].content[0].image_url.url"


def chat(text: Any = "hi", **changes: Any) -> dict[str, Any]:
    content = json.dumps(text) if isinstance(text, dict) else text
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **changes}


def shot(url: str, text: str = "打开微信", **changes: Any) -> dict[str, Any]:
    return chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}], **changes)


def client_of(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://app/v1", api_key="EMPTY", http_client=http, max_retries=0)


def events(answer: httpx.Response) -> list[str]:
    lines = answer.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


async def test_the_openai_client_reads_a_whole_answer() -> None:
    async with serving() as (http, parts):
        answer = await client_of(http).chat.completions.create(**shot(data_url(picture(60, 120))))
    assert answer.choices[0].message.content == "echo: 打开微信"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (17, 1, 18)
    message = parts.engines[0].started[0].messages[0]
    assert isinstance(message.parts[0], ImagePart)
    assert isinstance(message.parts[0].image, Image.Image)
    assert (message.parts[0].image.size, message.parts[0].image.mode) == ((60, 120), "RGB")
    assert message.parts[1] == TextPart("打开微信")


async def test_the_openai_client_reads_a_stream_with_usage() -> None:
    async with serving() as (http, _):
        stream = await client_of(http).chat.completions.create(
            **chat({"tokens": 3}), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "w0 w1 w2 "
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_a_stream_ends_with_done_and_says_length_when_it_was_cut() -> None:
    async with serving() as (http, _):
        answer = await http.post(CHAT, json=chat({"tokens": 9}, max_tokens=2, stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer)
    assert done == "[DONE]"
    assert json.loads(chunks[-1])["choices"][0]["finish_reason"] == "length"
    assert all("usage" not in json.loads(chunk) for chunk in chunks)


async def test_what_the_gateway_says_reaches_the_engine() -> None:
    headers = {"x-request-id": "req-7", "x-autoglm-max-pixels": "250000"}
    wanted = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.85, "frequency_penalty": 0.2, "stop": "x", "seed": 3}
    async with serving() as (http, parts):
        answer = await http.post(CHAT, json=chat(**wanted), headers=headers)
    assert answer.json()["id"] == "chatcmpl-req-7"
    request = parts.engines[0].started[0]
    assert (request.request_id, request.max_pixels, request.max_new_tokens) == ("req-7", 250_000, 7)
    assert (request.temperature, request.top_p, request.frequency_penalty) == (0.5, 0.85, 0.2)
    assert (request.stop, request.seed) == (("x",), 3)


async def test_what_grpc_takes_goes_by_it_and_a_call_with_a_large_picture_does_not() -> None:
    small, large = data_url(picture()), data_url(picture(8, 8) + bytes(DIRECT_BYTES))
    async with serving() as (http, parts):
        for url in (small, large, small):
            answer = await http.post(CHAT, json=shot(url, "hi"))
            assert answer.status_code == 200
    assert [call.size > DIRECT_BYTES for call in parts.handle.calls] == [False, True, False]
    assert parts.handle.by_reference == [False, True, False]


async def test_every_answer_names_the_revision() -> None:
    async with serving() as (http, _):
        answers = [
            await http.get("/v1/models"),
            await http.get("/health"),
            await http.get("/nothing"),
            await http.get(CHAT),
            await http.post(CHAT, content=b"{"),
            await http.post(CHAT, json=chat()),
            await http.post(CHAT, json=chat(stream=True)),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 405, 400, 200, 200]
    assert {answer.headers["x-autoglm-revision"] for answer in answers} == {"rev-1"}
    assert [item["id"] for item in answers[0].json()["data"]] == [MODEL]
    assert answers[1].json() == {"revision": "rev-1"}
    assert answers[2].json()["error"]["code"] == "not_found"
    assert answers[3].json()["error"]["code"] == "method_not_allowed"
    assert answers[3].headers["allow"] == "POST"


async def test_every_answer_names_the_variant_of_the_model_where_it_is_one() -> None:
    small = ModelConfig(name=MODEL, uri="builtin://autoglm-tiny", variant="int8")
    found = []
    for config in (app_config(model=small), app_config()):
        async with serving(config) as (http, _):
            answers = [await http.post(CHAT, json=chat()), await http.post(CHAT, content=b"{")]
            found.append([answer.headers.get("x-autoglm-variant") for answer in answers])
    assert found == [["int8", "int8"], [None, None]]


JPEG = picture(40, 30, "JPEG")
BOMB = {"type": "image_url", "image_url": data_url(png_bomb(7000))}


@pytest.mark.parametrize(
    ("body", "status", "code", "param", "words"),
    [
        (chat(model="gpt-4o"), 404, "model_not_found", "model", MODEL),
        (chat(n=2), 400, "invalid_request", "n", "n=1"),
        (shot("http://169.254.169.254/x.png"), 400, "invalid_request", URL, "data URLs"),
        (shot("file:///etc/passwd"), 400, "invalid_request", URL, "data URLs"),
        (shot("data:image/png;base64,"), 400, "invalid_image", URL, "0 bytes"),
        (shot("data:text/html;base64,AAAA"), 400, "invalid_image", URL, "PNG, JPEG, WebP or GIF"),
        (shot(data_url(b"this is not an image at all")), 400, "invalid_image", URL, "PNG, JPEG, WebP or GIF"),
        (shot(data_url(picture())[:-9] + "!!!!"), 400, "invalid_image", URL, "base64"),
        (shot(data_url(picture())[:200] + "ä" + data_url(picture())[201:]), 400, "invalid_image", URL, "base64"),
        (shot(data_url(picture()[:-60])), 400, "invalid_image", URL, "damaged"),
        (shot(data_url(JPEG[: len(JPEG) // 2])), 400, "invalid_image", URL, "damaged"),
        (shot(data_url(png_header(60_000, 60_000))), 413, "image_too_large", URL, "16384"),
        (shot(data_url(png_bomb(12_000))), 413, "image_too_large", URL, "50000000"),
        (shot(data_url(png_header(16_000, 10))), 400, "invalid_image", URL, "200 times"),
        (shot(data_url(png_header(0, 10))), 400, "invalid_image", URL, "no pixels"),
        (chat([BOMB] * 3), 413, "image_too_large", "messages", "together"),
        (chat({"fault": "too_long"}), 400, "context_length_exceeded", "messages", "9000 tokens"),
        (chat({"fault": "overloaded"}), 503, "overloaded", None, "again"),
        (chat({"fault": "failed"}), 502, "upstream_failed", None, "again"),
        (chat({"fault": "defect"}), 500, "internal_error", None, "again"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_say_what_is_wrong_and_what_to_do(
    body: dict[str, Any], status: int, code: str, param: str | None, words: str, stream: bool
) -> None:
    async with serving() as (http, parts):
        answer = await http.post(CHAT, json={**body, "stream": stream})
        assert (await http.post(CHAT, json=chat())).status_code == 200
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert words in error["message"]
    assert ("retry-after" in answer.headers) == (status == 503)
    assert not any(piece in answer.text for piece in SECRET.split())
    if status == 413:
        assert len(parts.handle.calls) == 1  # the good one: a bomb never gets as far as a decoder


async def test_bombs_are_refused_before_they_cost_memory() -> None:
    corpus = {name: data_url(data) for name, data in bombs().items()}
    async with serving() as (http, parts):
        assert (await http.post(CHAT, json=shot(data_url(picture())))).status_code == 200
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before = peak_mib()
        for name, url in corpus.items():
            answer = await http.post(CHAT, json=shot(url))
            assert answer.status_code in (400, 413), name
            assert answer.json()["error"]["code"] in ("invalid_image", "image_too_large"), name
        assert peak_mib() - before < 64
    assert len(parts.engines[0].started) == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
async def test_of_an_animation_only_the_first_picture_is_read(kind: str) -> None:
    async with serving() as (http, parts):
        answer = await http.post(CHAT, json=shot(data_url(animation(kind, 1000))))
    assert answer.status_code == 200
    part = parts.engines[0].started[0].messages[0].parts[0]
    assert isinstance(part, ImagePart)
    assert isinstance(part.image, Image.Image)
    assert part.image.size == (64, 64)
    assert part.image.getpixel((5, 5)) == (0, 0, 0)


def peak_mib() -> int:
    """The most memory this process has held at once since the peak was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder()
    yield decoder
    decoder.close()


async def test_a_header_that_lies_about_the_size_is_not_believed(decoder: Decoder) -> None:
    with pytest.raises(ApiError) as caught:
        await decoder.decode(EncodedImage(png_bomb(4000), ImageSize(40, 40, "png"), "here"))
    assert (caught.value.code, caught.value.param) == ("invalid_image", "here")


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1"), ("PNG", "I;16"),
                                           ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P")])  # fmt: skip
async def test_every_common_kind_of_image_becomes_rgb(decoder: Decoder, kind: str, mode: str) -> None:
    data = picture(50, 40, kind, mode)
    image = await decoder.decode(EncodedImage(data, ImageSize(50, 40, "png"), "here"))
    assert (image.mode, image.size) == ("RGB", (50, 40))


async def test_a_body_that_is_too_large_is_refused_by_its_length_or_while_it_is_read() -> None:
    config = app_config(limits=Limits(max_body_bytes=1000))

    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * 300

    async with serving(config) as (http, parts):
        declared = await http.post(CHAT, content=b"x" * 1001)
        chunked = await http.post(CHAT, content=pieces())
        assert (await http.post(CHAT, json=chat())).status_code == 200
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "1000 bytes" in answer.json()["error"]["message"]
    assert len(parts.handle.calls) == 1


async def test_a_body_that_does_not_arrive_times_out() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    space = BufferSpace(100)
    with space.hold() as hold, pytest.raises(ApiError) as caught:
        await read_body(Request({"type": "http", "headers": []}, receive), 100, hold, timeout_s=0.01)
    assert (caught.value.status, caught.value.code) == (408, "timeout")


async def test_bodies_of_all_requests_together_are_bounded() -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 60, "more_body": False}

    space = BufferSpace(100)
    with space.hold() as first:
        await read_body(Request({"type": "http", "headers": []}, receive), 100, first)
        with space.hold() as second, pytest.raises(ApiError) as caught:
            await read_body(Request({"type": "http", "headers": []}, receive), 100, second)
        assert caught.value.code == "overloaded"
    assert space.used == 0


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [(BackPressureError(9, 9), 503, "overloaded"), (DeploymentUnavailableError("app"), 503, "not_ready")],
    ids=["full", "gone"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_overload_is_an_answer_that_says_when_to_come_back(
    raised: Exception, status: int, code: str, stream: bool
) -> None:
    async with serving() as (http, parts):
        parts.handle.raises = [raised]
        answer = await http.post(CHAT, json=chat(stream=stream))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert int(answer.headers["retry-after"]) >= 1
    assert len(parts.handle.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_whose_replica_dies_before_the_first_token_goes_to_another(stream: bool) -> None:
    async with serving(replicas=2) as (http, parts):
        parts.handle.raises = [RuntimeError("the actor died")]
        answer = await http.post(CHAT, json=chat("你好", stream=stream))
    assert answer.status_code == 200
    assert "echo: 你好" in answer.text
    assert [call.request_id for call in parts.handle.calls] == [parts.handle.calls[0].request_id] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_whose_first_token_takes_minutes_is_not_taken_for_one_that_waits_for_a_place(stream: bool) -> None:
    chat_request = parse_chat(
        json.dumps(chat({"tokens": 2, "pace": 5 * ACCEPT_TIMEOUT_S}, stream=stream)).encode(), Limits()
    )
    call = to_call(chat_request, "slow", None, Limits())

    async def asked() -> str:
        replica = EngineReplica(app_config().model_dump(mode="json", by_alias=True), ScriptedEngine)
        return "".join([delta.text async for delta in Replicas(Handle([replica])).generate(call)])

    assert virtual_time.run(asked()) == "w0 w1 "


async def test_a_whole_answer_is_asked_for_again_however_late_its_replica_dies() -> None:
    async with serving(replicas=2) as (http, parts):
        parts.engines[1].faults = False
        answer = await http.post(CHAT, json=chat({"tokens": 4, "fault": "dead", "after": 3}))
    assert answer.json()["choices"][0]["message"]["content"] == "w0 w1 w2 w3 "
    assert len(parts.handle.calls) == 2


async def test_a_stream_whose_replica_dies_after_the_first_token_ends_with_an_error_and_no_done() -> None:
    async with serving(replicas=2) as (http, parts):
        answer = await http.post(CHAT, json=chat({"tokens": 4, "fault": "dead", "after": 2}, stream=True))
        with pytest.raises(openai.APIError) as caught:
            async for _ in await client_of(http).chat.completions.create(
                **chat({"tokens": 4, "fault": "dead", "after": 2}), stream=True
            ):
                pass
    *chunks, last = events(answer)
    texts = [json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == "w0 w1 "
    assert json.loads(last)["error"]["code"] == "upstream_failed"
    assert "[DONE]" not in answer.text
    assert caught.value.code == "upstream_failed"
    assert len(parts.handle.calls) == 2  # one for each request: nobody continues another replica's text


async def test_a_call_that_no_replica_survives_ends_after_two() -> None:
    async with serving(replicas=3) as (http, parts):
        answer = await http.post(CHAT, json=chat({"fault": "dead"}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_failed")
    assert len(parts.handle.calls) == 2


async def test_a_replica_whose_engine_is_dead_ends_its_process_and_its_health_checks_fail() -> None:
    ended = asyncio.Event()
    async with serving(end=ended.set) as (http, parts):
        assert (await http.get("/health")).status_code == 200
        await http.post(CHAT, json=chat({"fault": "dead"}))
        await asyncio.wait_for(ended.wait(), 60)
        with pytest.raises(Exception, match="swordfish"):
            await parts.handle.replicas[0].check_health()


async def test_health_is_earned_by_a_replica_that_answers() -> None:
    async with serving() as (http, parts):
        parts.handle.check_error = RuntimeError(SECRET)
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "retry-after" in answer.headers
        assert (await http.post(CHAT, json=chat())).status_code == 200
        assert (await http.get("/health")).status_code == 200  # the answer was a sign of life


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_the_engine(stream: bool) -> None:
    async with serving() as (_, parts):
        body = json.dumps(chat({"tokens": 10**6, "pace": 0.001}, stream=stream, max_tokens=4096)).encode()
        leave = asyncio.Event()
        sent: list[Any] = []
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            for message in messages:
                return message
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b"", "root_path": ""}
        request = asyncio.ensure_future(parts.app({**scope, "http_version": "1.1", "scheme": "http"}, receive, send))
        await until(lambda: parts.engines[0].running == 1 and (len(sent) > 2 or not stream))
        leave.set()
        await asyncio.wait_for(request, 60)
        await until(lambda: parts.engines[0].running == 0)
        assert parts.engines[0].cancelled == 1


@pytest.mark.parametrize("value", ["0", "-1", "many", "1" * 13, "٣"])
async def test_a_pixel_limit_that_is_no_number_is_refused(value: str) -> None:
    async with serving() as (http, _):
        answer = await http.post(CHAT, json=chat(), headers={b"x-autoglm-max-pixels": value.encode()})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-autoglm-max-pixels")


async def test_a_model_that_is_not_there_is_said_in_one_line() -> None:
    arguments = app_config(model={"name": "x", "uri": "file:///missing"}).model_dump(mode="json", by_alias=True)
    with pytest.raises(ModelUnavailable) as caught:
        await EngineReplica(arguments, ScriptedEngine).start()
    assert str(caught.value) == "ModelNotFound: there is no folder /missing"


async def test_a_replica_says_what_its_start_took() -> None:
    ours = Records()
    logging.getLogger("ray.serve").addHandler(ours)
    replica = EngineReplica(app_config().model_dump(mode="json", by_alias=True))
    try:
        await replica.start()
    finally:
        await replica.close()
        logging.getLogger("ray.serve").removeHandler(ours)
    (told,) = [vars(record) for record in ours.records if record.getMessage() == "replica ready"]
    parts = [f"{part}_s" for part in ("fetch", "imports", "tokenizer", "weights", "warm_up", "rest")]
    assert told["seconds"] == pytest.approx(sum(told[part] for part in parts), abs=0.01)
    assert told["weights_s"] > 0


async def test_logs_hold_figures_and_no_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ours = Records()
    logging.getLogger("ray.serve").addHandler(ours)
    picture_url = data_url(picture())
    async with serving(replicas=2) as (http, _):
        for fault in (None, "dead", "failed", "defect", "too_long", "overloaded"):
            for stream in (False, True):
                text = json.dumps({"tokens": 2, "fault": fault, "after": 1})
                await http.post(CHAT, json=shot(picture_url, text, stream=stream, user="canary"))
        await http.post(CHAT, json=shot(picture_url, "canary", stop="canary", extra={"canary": 1}))
        await http.post(CHAT, content=b'{"canary')
    logging.getLogger("ray.serve").removeHandler(ours)
    records = [json.dumps(vars(record), default=str) for record in [*caplog.records, *ours.records]]
    assert sum(record.getMessage() == "request" for record in ours.records) == 14
    assert any(getattr(record, "completion_tokens", None) == 2 for record in ours.records)
    for forbidden in ("canary", "echo", picture_url[40:80], *SECRET.split()):
        assert not any(forbidden in record for record in records), forbidden


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


INSIDE = re.compile(
    r"Traceback|\b[A-Za-z]\w*(?:Error|Exception|Warning)\b|\.py\b|0x[0-9a-f]|\bobject at\b|pydantic|starlette|\bPIL\b|\bray\b"
    r"|\b(?:\d{1,3}\.){3}\d{1,3}\b|\bchar \d|(?<![\w.:/])/(?:\w[\w.-]*/)+\w"
)
"""Names of exceptions, what they say, addresses and paths: they tell what a server is made of, unless the client said them
itself, for a message may repeat the name of a model, and a scripted answer the question."""
HANG_S = 5.0
SEEDS = [
    shot(data_url(picture(8, 8)), stream=True, stream_options={"include_usage": True}, stop=["a"], max_tokens=3),
    shot(data_url(JPEG), n=1, temperature=0.1, seed=2),
    chat({"tokens": 2}, max_completion_tokens=2),
]


@pytest.mark.parametrize(
    "count", [1500, pytest.param(50_000, marks=[pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(3600)])]
)
async def test_no_mangled_request_gets_a_500_or_a_look_inside(count: int) -> None:
    """A hang is told by the time that this process computes, for other processes of the machine may keep it waiting."""
    statuses: dict[int, int] = {}
    depths: dict[int, int] = {}
    longest = 0.0
    async with serving() as (http, _):
        for body in mutated(SEEDS, count, seed=1):
            begun = time.process_time()
            answer = await asyncio.wait_for(http.post(CHAT, content=body), 20)
            longest = max(longest, time.process_time() - begun)
            counted = depths if max(body.count(b"["), body.count(b"{")) >= DEPTH else statuses
            counted[answer.status_code] = counted.get(answer.status_code, 0) + 1
            own = body.decode(errors="replace")
            told = [*answer.headers.values(), answer.text]
            assert not [found for text in told for found in INSIDE.findall(text) if found not in own], body[:2000]
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    print(f"{count} requests: {statuses}, nested {DEPTH} deep: {depths}, the longest computed {longest * 1000:.0f} ms")
    assert longest < HANG_S
    assert set(statuses) <= {200, 400, 404, 413}, statuses
    assert statuses[200] > count / 15
    assert statuses[400] > count / 3
    assert set(depths) == {400}
    assert depths[400] >= count // 50


async def test_no_mangled_image_gets_a_500() -> None:
    images = [picture(24, 30, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]
    chance = random.Random(2)
    statuses: dict[int, int] = {}
    async with serving() as (http, _):
        for index in range(600):
            data = bytearray(images[index % 4])
            for _ in range(chance.randint(1, 5)):
                at = chance.randrange(len(data))
                data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            if index % 5 == 0:
                del data[chance.randrange(1, len(data)) :]
            answer = await http.post(CHAT, json=shot(data_url(bytes(data))))
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert set(statuses) <= {200, 400, 413}, statuses
    assert statuses[400] > 100


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
