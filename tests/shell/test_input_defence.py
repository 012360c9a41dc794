"""Hostile images: decoded in processes that may die, and fetched only from where it was allowed."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from autoglm_serving.app.body import BufferSpace
from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.app.decoding import Decoder
from autoglm_serving.app.fetching import MAX_REDIRECTS, PARALLEL, PARALLEL_IN_ALL, ImageFetcher
from autoglm_serving.config import Limits
from autoglm_serving.image_urls import forbidden
from autoglm_serving.images import ImageSize, read_size
from autoglm_serving.protocol import ChatRequest, ImageContent, parse_chat
from autoglm_serving.wire import ApiError
from support.pictures import data_url, picture, png_bomb
from support.web import answering

PARAM = "messages[0].content[0].image_url.url"
PNG = picture(60, 120)


def encoded(data: bytes, width: int = 60, height: int = 120) -> EncodedImage:
    return EncodedImage(data, ImageSize(width, height, "png"), PARAM)


@asynccontextmanager
async def decoding(**options: Any) -> AsyncIterator[Decoder]:
    decoder = Decoder(**options)
    try:
        yield decoder
    finally:
        decoder.close()


async def refusal(decoder: Decoder, image: EncodedImage) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await decoder.decode(image)
    return caught.value


async def test_an_image_that_needs_more_memory_than_a_worker_has_is_refused_and_the_next_one_is_read() -> None:
    async with decoding(max_pixels=1_000_000, workers=1) as decoder:
        error = await refusal(decoder, encoded(png_bomb(30_000), 30_000, 30_000))
        assert (error.status, error.code, error.param) == (413, "image_too_large", PARAM)
        assert (await decoder.decode(encoded(PNG))).size == (60, 120)


async def test_a_worker_that_dies_over_an_image_is_replaced() -> None:
    others = children()
    async with decoding(workers=1) as decoder:
        await decoder.decode(encoded(PNG))
        (pid,) = children() - others
        os.kill(pid, signal.SIGSTOP)  # it takes the image and never answers
        waiting = asyncio.ensure_future(decoder.decode(encoded(PNG)))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ApiError) as caught:
            await waiting
        assert caught.value.code == "image_too_large"
        assert (await decoder.decode(encoded(PNG))).size == (60, 120)
        assert pid not in children()
    assert children() <= others


async def test_an_image_that_takes_too_much_cpu_time_is_refused() -> None:
    async with decoding(workers=1, cpu_s=0) as decoder:
        error = await refusal(decoder, encoded(png_bomb(30_000), 30_000, 30_000))
        assert error.code == "image_too_large"


def children() -> set[int]:
    """Decode workers of this process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and "decode_worker" in (entry / "cmdline").read_text():
                    found.add(int(entry.name))
    return found


async def test_broken_and_two_faced_files_are_refused_or_read_as_the_image_that_they_are() -> None:
    rng = random.Random(7)
    jpeg = picture(60, 120, "JPEG")
    corpus = [PNG[:cut] for cut in range(24, len(PNG), max(1, len(PNG) // 12))]
    corpus += [_flipped(rng, source) for source in (PNG, jpeg) for _ in range(15)]
    corpus += [PNG + b"PK\x03\x04" + b"x" * 100, jpeg + b"<script>alert(1)</script>", b"GIF89a" + PNG, PNG[:33] + jpeg]
    async with decoding() as decoder:
        for data in corpus:
            refused, decoded = None, None
            try:
                size = read_size(data_url(data))
                if size.pixels > 1_000_000:
                    continue  # the limits refuse it before it comes to a decoder
                decoded = await decoder.decode(EncodedImage(data, size, PARAM))
            except ApiError as error:
                refused = error.code
            if decoded is None:
                assert refused == "invalid_image"
            else:
                assert decoded.mode == "RGB"
        assert (await decoder.decode(encoded(PNG))).size == (60, 120)


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


class Site:
    """A web server on this machine that serves one good image and everything that is bad."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.port = 0
        self.redirect = ""
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        match request.path.strip("/"):
            case "ok.png":
                return web.Response(body=PNG, content_type="image/png")
            case "page.png":
                return web.Response(text="<html>", content_type="text/html")
            case "lie.png":
                return web.Response(body=b"<html>", content_type="image/png")
            case "packed.png":
                return web.Response(body=b"x", content_type="image/png", headers={"content-encoding": "gzip"})
            case "slow.png":
                await self.ended.wait()
                return web.Response()
            case "endless.png":
                stream = web.StreamResponse(headers={"content-type": "image/png"})
                await stream.prepare(request)
                while True:
                    await stream.write(b"x" * 65536)
            case "loop":
                raise web.HTTPFound("/loop")
            case "elsewhere":
                raise web.HTTPFound(self.redirect)
            case _:
                raise web.HTTPNotFound


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with answering(site.answer) as site.port:
        yield site
        site.ended.set()


NAMES = {
    "good.test": ["127.0.0.1"],
    "private.test": ["10.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": ["127.0.0.1", "192.168.0.1"],
    "mapped.test": ["::ffff:10.0.0.1"],
    "empty.test": [],
}


def fetcher(site: Site, max_bytes: int = 1_000_000, timeout_s: float = 120.0) -> ImageFetcher:
    """It may connect to this machine under the name good.test, and to the public internet."""

    async def resolve(host: str, port: int) -> list[str]:
        if host not in NAMES:
            raise OSError("no such name")
        return NAMES[host]

    hosts = tuple(f"{name}:{site.port}" for name in (*NAMES, "unknown.test", "10.0.0.1", "::1"))
    limits = Limits(image_hosts=hosts, max_body_bytes=max_bytes)
    return ImageFetcher(limits, resolve, lambda each: each == "127.0.0.1" or forbidden(each) is None, timeout_s)


async def fetched(fetcher: ImageFetcher, *urls: str) -> list[str]:
    """The images' URLs after fetching."""
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    value = {"model": "m", "messages": [{"role": "user", "content": content}]}
    request = ChatRequest.model_validate(value)
    with BufferSpace(10_000_000).hold() as hold:
        after = await fetcher.inlined(request, hold)
    return [part.image_url.url for part in after.messages[0].content if isinstance(part, ImageContent)]


async def failure(fetcher: ImageFetcher, url: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await fetched(fetcher, url)
    assert caught.value.param == PARAM
    return caught.value


async def test_an_image_of_a_listed_host_comes_into_the_request(site: Site) -> None:
    base = f"http://good.test:{site.port}"
    site.redirect = f"{base}/ok.png"
    inside = data_url(picture(5, 5))
    assert await fetched(fetcher(site), f"{base}/ok.png", inside, f"{base}/elsewhere") == [
        data_url(PNG),
        inside,
        data_url(PNG),
    ]


@pytest.mark.parametrize("path", ["page.png", "packed.png", "missing.png"])
async def test_what_is_no_image_is_refused(site: Site, path: str) -> None:
    error = await failure(fetcher(site), f"http://good.test:{site.port}/{path}")
    assert (error.status, error.code) == (400, "invalid_image")


async def test_what_only_calls_itself_an_image_is_judged_like_an_image_inside_the_request(site: Site) -> None:
    (url,) = await fetched(fetcher(site), f"http://good.test:{site.port}/lie.png")
    with pytest.raises(ApiError, match="invalid_image"):
        read_size(url)


async def test_a_loop_of_redirects_ends(site: Site) -> None:
    error = await failure(fetcher(site), f"http://good.test:{site.port}/loop")
    assert (error.code, len(site.requests)) == ("invalid_image", MAX_REDIRECTS + 1)


async def test_an_endless_image_ends_at_the_limit(site: Site) -> None:
    error = await failure(fetcher(site, max_bytes=300_000), f"http://good.test:{site.port}/endless.png")
    assert (error.status, error.code) == (413, "body_too_large")


async def test_a_server_that_never_answers_is_given_up(site: Site) -> None:
    error = await failure(fetcher(site, timeout_s=0.3), f"http://good.test:{site.port}/slow.png")
    assert error.code == "invalid_image"


async def test_the_images_of_all_requests_that_are_fetched_at_once_are_bounded(site: Site) -> None:
    one, each = fetcher(site), PARALLEL + 1
    count = PARALLEL_IN_ALL // PARALLEL + 2
    urls = [[f"http://good.test:{site.port}/slow.png?{k}.{n}" for n in range(each)] for k in range(count)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        asking = [group.create_task(outcome(one, *mine)) for mine in urls]
        while len(site.requests) < PARALLEL_IN_ALL:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(site.requests) == PARALLEL_IN_ALL
        site.ended.set()
    assert {task.result() for task in asking} == {"invalid_image"}
    assert len(site.requests) == count * each, "those that waited had their turn"


async def outcome(fetcher: ImageFetcher, *urls: str) -> str:
    """The code of the error, or "fetched"."""
    try:
        await fetched(fetcher, *urls)
    except ApiError as error:
        return error.code
    return "fetched"


@pytest.mark.parametrize("name", ["private", "metadata", "mixed", "mapped", "empty", "unknown"])
async def test_names_that_point_inside_are_refused_in_the_same_words_as_names_that_point_nowhere(
    site: Site, name: str
) -> None:
    error = await failure(fetcher(site), f"http://{name}.test:{site.port}/ok.png")
    missing = await failure(fetcher(site), f"http://good.test:{site.port}/missing.png")
    assert (error.code, error.message) == (missing.code, missing.message)
    assert site.requests == ["/missing.png"]


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://private.test:{port}/ok.png", "invalid_image"),
        ("http://10.0.0.1:{port}/ok.png", "invalid_image"),
        ("http://[::1]:{port}/ok.png", "invalid_image"),
        ("http://other.test:{port}/ok.png", "invalid_request"),
        ("http://127.0.0.1:{port}/ok.png", "invalid_request"),
        ("http://good.test:1/ok.png", "invalid_request"),
        ("file:///etc/passwd", "invalid_request"),
        ("//evil.test/", "invalid_request"),
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(site: Site, target: str, code: str) -> None:
    site.redirect = target.format(port=site.port)
    error = await failure(fetcher(site), f"http://good.test:{site.port}/elsewhere")
    assert error.code == code
    assert site.requests == ["/elsewhere"]


def test_a_path_of_this_machine_is_never_an_image() -> None:
    for url in ("file:///etc/passwd", "/etc/passwd", "../x.png", "FILE:///x", "javascript:1"):
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})
        with pytest.raises(ApiError, match="data URL"):
            parse_chat(body.encode(), Limits(image_hosts=("good.test",)))
