"""Every known way to make a server fetch from where it must not: nothing inside is ever connected to.

The list of hosts allows all that is tried, so nothing but the check of addresses stands between a URL and this machine.
Listeners on its loopback addresses count who comes.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from autoglm_serving.app.body import BufferSpace
from autoglm_serving.app.fetching import ImageFetcher
from autoglm_serving.config import Limits
from autoglm_serving.image_urls import forbidden
from autoglm_serving.protocol import ImageContent, parse_chat
from autoglm_serving.wire import ApiError
from support.pictures import data_url, picture
from support.web import answering

PNG = picture(20, 30)
REFUSED_S = 0.05
GOOD, INSIDE = "127.0.0.2", "127.0.0.1"
"""The first stands for the public internet; at the second nobody may be asked."""

SPELLINGS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "127。0。0。1", "127．0．0．1", "①②⑦.⓪.⓪.①",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[::7f00:1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "169.254.169.254", "2852039166",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "192.0.0.192", "private.test", "metadata.test", "mixed.test",
    "mapped.test", "numeric.test", "empty.test",
)  # fmt: skip
NAMES = {
    "good.test": [GOOD],
    "localhost": [INSIDE],
    "private.test": ["10.0.0.1"],
    "metadata.test": ["169.254.169.254"],
    "mixed.test": [GOOD, INSIDE],
    "mapped.test": ["::ffff:127.0.0.1"],
    "numeric.test": ["2130706433"],
    "empty.test": [],
}
FORMS = (
    "http://{host}:{port}/ok.png",
    "http://good.test@{host}:{port}/ok.png",
    "http://{host}:{port}\\@good.test/ok.png",
)
OTHERS = (
    "file:///etc/passwd", "file://localhost/etc/passwd", "unix:///run/docker.sock", "http+unix://%2Frun%2Fdocker.sock/x",
    "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/x", "dict://127.0.0.1:{port}/x", "ldap://127.0.0.1:{port}/x",
    "jar:http://127.0.0.1:{port}/x!/", "//127.0.0.1:{port}/ok.png", "http:/127.0.0.1:{port}/ok.png", "http:127.0.0.1:{port}",
    "http:///127.0.0.1:{port}/ok.png", "http:\\\\127.0.0.1:{port}\\ok.png", "http://127.0.0.1:{port}#@good.test/",
    "http://127.0.0.1:{port}?@good.test/", "http://good.test:{port}%00@127.0.0.1/", "http://127.0.0.1:{port}%2f@good.test/",
    "ht\ttp://127.0.0.1:{port}/", "http://127.0.\t0.1:{port}/", " http://127.0.0.1:{port}/", "http://127.0.0.1\n:{port}/",
    "http://[::1%25lo]:{port}/", "http://[::1]x:{port}/", "http://127.0.0.1:{port}:{port}/", "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:{port}.good.test/", "http://good.test.:1/", "http://good.test:0/", "https://127.0.0.1:{port}/ok.png",
)  # fmt: skip


@dataclass
class World:
    """A good web server, and listeners that nobody may reach; all at one port."""

    port: int = 0
    redirect: str = ""
    asked: list[str] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    """The addresses that the check let through: of most that are private nobody could listen here."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/elsewhere":
            return web.Response(status=302, headers={"location": self.redirect})
        return web.Response(body=PNG, content_type="image/png")

    def fetcher(self) -> ImageFetcher:
        """It may be sent to every host of the corpus at the one port."""

        async def resolve(host: str, port: int) -> list[str]:
            if host in NAMES:
                return NAMES[host]
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [str(each[4][0]) for each in found]

        names = {each.strip("[]").rstrip(".").lower() for each in SPELLINGS} | {"good.test"}
        hosts = tuple(f"{name}:{self.port}" for name in names if name.isascii())
        return ImageFetcher(Limits(image_hosts=hosts), resolve, self.public)

    def public(self, address: str) -> bool:
        """The check itself, with the good server for the public internet."""
        through = address == GOOD or forbidden(address) is None
        if through:
            self.passed.add(address)
        return through

    async def fetch(self, url: str, fetcher: ImageFetcher) -> str:
        """The image's URL after fetching; raises ApiError."""
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})
        with BufferSpace(10_000_000).hold() as hold:
            chat = await fetcher.inlined(parse_chat(body.encode(), Limits(image_hosts=("good.test",))), hold)
        (part,) = chat.messages[0].content
        assert isinstance(part, ImageContent)
        return part.image_url.url

    async def refused(self, url: str, fetcher: ImageFetcher) -> tuple[ApiError, float]:
        """Why the URL is refused, and what it took of this process's time: others of the machine keep it waiting."""
        begun = time.process_time()
        with pytest.raises(ApiError) as refusal:
            await self.fetch(url, fetcher)
        return refusal.value, time.process_time() - begun


@asynccontextmanager
async def canary(world: World, address: str) -> AsyncIterator[None]:
    def caught(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.caught.append(address)
        writer.close()

    async with await asyncio.start_server(caught, address, world.port):
        yield


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with AsyncExitStack() as stack:
        world.port = await stack.enter_async_context(answering(world.answer, GOOD))
        await stack.enter_async_context(canary(world, INSIDE))
        if socket.has_dualstack_ipv6():
            await stack.enter_async_context(canary(world, "::1"))
        yield world


def corpus(port: int) -> list[str]:
    spelled = [form.format(host=host, port=port) for host in SPELLINGS for form in FORMS]
    return [*spelled, *(each.format(port=port) for each in OTHERS)]


async def test_no_url_of_the_corpus_reaches_this_machine_directly_or_by_a_redirect(world: World) -> None:
    fetcher = world.fetcher()
    urls = corpus(world.port)
    assert len(urls) >= 150
    seconds = []
    for url in urls:
        direct, took = await world.refused(url, fetcher)
        # Into one of the two may fall what is loaded once, or a collection of the garbage of other tests.
        seconds.append(min(took, (await world.refused(url, fetcher))[1]))
        assert direct.status == 400, url
    print(f"{len(urls)} URLs refused, the slowest in {max(seconds) * 1000:.1f} ms of computing")
    assert max(seconds) <= REFUSED_S
    assert not world.asked, "what names the good server was refused for what else it names"
    refused: list[ApiError] = []
    for world.redirect in urls:
        if not all(" " < each < "\x7f" for each in world.redirect):
            continue  # no server can send it in a header
        try:
            await world.fetch(f"http://good.test:{world.port}/elsewhere", fetcher)
        except ApiError as error:
            refused.append(error)
    assert {error.status for error in refused} == {400}
    assert not any(str(world.port) in error.message for error in refused)
    assert len(refused) >= 120
    assert len(world.asked) - len(refused) <= 10, "some are paths of the good server, read from where they stand"
    assert not world.caught
    assert world.passed == {GOOD}
    assert await world.fetch(f"http://good.test:{world.port}/ok.png", fetcher) == data_url(PNG)


async def test_a_name_that_points_elsewhere_each_time_it_is_asked_leads_nowhere_inside(world: World) -> None:
    answers: list[str] = []

    async def flipping(_host: str, _port: int) -> list[str]:
        answers.append((GOOD, INSIDE)[len(answers) % 2])
        return answers[-1:]

    fetcher = ImageFetcher(Limits(image_hosts=(f"flip.test:{world.port}",)), flipping, world.public)
    outcomes = []
    for _ in range(20):
        try:
            outcomes.append(await world.fetch(f"http://flip.test:{world.port}/ok.png", fetcher))
        except ApiError as error:
            outcomes.append(error.code)
    assert outcomes == [data_url(PNG), "invalid_image"] * 10, "each name is asked for once, and what it said holds"
    assert not world.caught
