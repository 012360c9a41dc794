"""Fetches images that requests name by URL, where a deployment allows it. `image_urls` decides, this connects.

The resolver of the connections hands out only addresses that were checked, so a name cannot point elsewhere between check
and connection, and every redirect is checked anew. Clients learn that a fetch failed, never why: the difference between a
refused port, a timeout and a private address would map the network for them.
"""

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from autoglm_serving.app.body import Hold
from autoglm_serving.config import Limits
from autoglm_serving.image_urls import Target, check_type, check_url, forbidden, is_remote
from autoglm_serving.protocol import ChatRequest, ImageContent
from autoglm_serving.wire import ApiError, api_error

FETCH_TIMEOUT_S = 10.0
"""For one image with all its redirects, name resolution and data."""
MAX_REDIRECTS = 3
PARALLEL = 4
"""Images of one request that are fetched at once."""
PARALLEL_IN_ALL = 32
"""Images of all requests that are fetched at once."""
CHUNK = 64 * 1024

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host, as text."""


async def system_addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class CheckedResolver(AbstractResolver):
    """Only addresses that may be connected to. One bad address spoils the name: such a name has no honest reason."""

    def __init__(self, resolve: Resolve, allowed: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._allowed = allowed

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's interface
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise OSError("this name does not point to the public internet")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class ImageFetcher:
    """Replaces image URLs by the images. `allowed` is asked about each address; tests allow their own server."""

    def __init__(
        self,
        limits: Limits,
        resolve: Resolve = system_addresses,
        allowed: Callable[[str], bool] = lambda address: forbidden(address) is None,
        timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._limits = limits
        self._resolver = CheckedResolver(resolve, allowed)
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._turn = asyncio.Semaphore(PARALLEL_IN_ALL)

    async def inlined(self, request: ChatRequest, hold: Hold) -> ChatRequest:
        """The request with every image inside; raises ApiError. `hold` counts what was fetched as part of the body."""
        places = [
            (part.image_url.url, f"messages[{index}].content[{place}].image_url.url")
            for index, message in enumerate(request.messages)
            for place, part in enumerate(message.content)
            if isinstance(part, ImageContent) and is_remote(part.image_url.url)
        ]
        if not places:
            return request
        for url, param in places:
            check_url(url, self._limits.image_hosts, param)
        fetched = await self._fetch_all(places, hold)
        messages = tuple(
            message.model_copy(update={"content": tuple(_inline(part, fetched) for part in message.content)})
            for message in request.messages
        )
        return request.model_copy(update={"messages": messages})

    async def _fetch_all(self, places: Sequence[tuple[str, str]], hold: Hold) -> dict[str, str]:
        wanted: dict[str, str] = {}
        for url, param in places:
            wanted.setdefault(url, param)
        turn = asyncio.Semaphore(PARALLEL)
        budget = _Budget(self._limits.max_body_bytes, hold)
        connector = aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept": "image/*", "accept-encoding": "identity", "user-agent": "autoglm"},
        ) as session:

            async def one(url: str, param: str) -> str:
                async with turn, self._turn:
                    return await self._fetch(session, url, param, budget)

            async with asyncio.TaskGroup() as group:
                tasks = {url: group.create_task(_shielded(one(url, param))) for url, param in wanted.items()}
        results = {url: task.result() for url, task in tasks.items()}
        for result in results.values():
            if isinstance(result, ApiError):
                raise result
        return {url: str(result) for url, result in results.items()}

    async def _fetch(self, session: aiohttp.ClientSession, url: str, param: str, budget: "_Budget") -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    target = check_url(url, self._limits.image_hosts, param)
                    self._check_literal(target)
                    address = URL(target.url)
                    if address.raw_host != target.host:  # read differently by the library that connects
                        raise _failed(param)
                    async with session.get(address, allow_redirects=False) as answer:
                        location = answer.headers.get("location")
                        if answer.status in (301, 302, 303, 307, 308) and location:
                            url = urljoin(target.url, location)
                            continue
                        return await _read(answer, param, budget)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            raise _failed(param) from None
        raise api_error("invalid_image", f"the image's URL redirects more than {MAX_REDIRECTS} times", param)

    def _check_literal(self, target: Target) -> None:
        """A host that is an address itself never comes to the resolver."""
        host = target.host
        if (":" in host or host.replace(".", "").isdigit()) and not self._allowed(host):
            raise OSError("this address is not on the public internet")


class _Budget:
    """Bytes that the images of one request may still take."""

    def __init__(self, limit: int, hold: Hold) -> None:
        self._left = limit
        self._limit = limit
        self._hold = hold

    def take(self, size: int, param: str) -> None:
        if size > self._left:
            raise api_error(
                "body_too_large", f"the images have more than {self._limit} bytes: use fewer or smaller images", param
            )
        self._left -= size
        self._hold.take(size)


async def _read(answer: aiohttp.ClientResponse, param: str, budget: _Budget) -> str:
    if answer.status != 200 or answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise _failed(param)
    check_type(answer.headers.get("content-type"), param)
    chunks = []
    async for chunk in answer.content.iter_chunked(CHUNK):
        budget.take(len(chunk), param)
        chunks.append(chunk)
    kind = answer.headers["content-type"].partition(";")[0].strip().lower()
    return f"data:{kind};base64,{base64.b64encode(b''.join(chunks)).decode()}"


async def _shielded(work: Awaitable[str]) -> str | ApiError:
    """The error as a value, so that one bad image does not hide which one it was behind a group of exceptions."""
    try:
        return await work
    except ApiError as error:
        return error


def _inline(part: Any, fetched: dict[str, str]) -> Any:
    if not isinstance(part, ImageContent) or part.image_url.url not in fetched:
        return part
    return part.model_copy(update={"image_url": part.image_url.model_copy(update={"url": fetched[part.image_url.url]})})


def _failed(param: str) -> ApiError:
    return api_error(
        "invalid_image", "the image's URL could not be fetched: send the image inside the request, as a data URL", param
    )
