"""Measures the network to each site: small requests to its proxy every now and then, and seldom an upload.

A site is one link however many deployments it has: each turn asks one of its endpoints that answer. A turn has a connection of
its own and uses it more than once, so that the time to make it is in no figure.
"""

import asyncio
import logging
import random
import time
from types import TracebackType
from typing import Self

import aiohttp

from autoglm_serving.gateway.fleet import Fleet, Member
from autoglm_serving.gateway.tasks import end
from autoglm_serving.links import Link

_log = logging.getLogger(__name__)

TURN_SECONDS = 20.0
FIRST_SECONDS = 1.0
"""Until a first figure of each is known."""
REQUEST_SECONDS = 30.0
PROXY_HEALTH = "/-/healthz"
"""Ray Serve's proxy answers this by itself. Any answer will do: it is its time that is wanted."""
SINK = "/v1/link"
"""Where the application takes a body and does nothing with it."""
TAKEN = 204


class LinkProber:
    """Keeps one task for each site of the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = tuple(self._tasks.values())
        self._tasks.clear()
        await end(tasks)

    def sync(self) -> None:
        """Follow the fleet: start tasks for new sites, end those of sites that are gone."""
        sites = self._fleet.sites
        for site in self._tasks.keys() - sites:
            self._tasks.pop(site).cancel()
        for site in sites - self._tasks.keys():
            self._tasks[site] = asyncio.create_task(self._watch(site))

    async def _watch(self, site: str) -> None:
        while True:
            member = self._asked(site)
            try:
                if member is not None:
                    self._fleet.set_link(site, await measured(self._fleet.link(site), member))
            except Exception:  # noqa: BLE001 - one site's surprise must not end its measuring
                _log.exception("the link to %s could not be measured", site)
            seconds = TURN_SECONDS if self._fleet.link(site).told else FIRST_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.9, 1.1))

    def _asked(self, site: str) -> Member | None:
        """One of the endpoints of a site that answer."""
        there = (member for member in self._fleet.members if member.endpoint.site == site)
        answering = [member for member in there if member.health.answers and member.address is not None]
        return random.choice(answering) if answering else None


async def measured(link: Link, member: Member) -> Link:
    """One turn. What fails leaves the link as it was: that a site does not answer others tell."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=5)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
        try:
            url = f"http://{member.address}{PROXY_HEALTH}"
            await _seconds(session, "GET", url)
            link = link.answered((await _seconds(session, "GET", url))[1], time.monotonic())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return link
        return await _uploaded(session, link, member) if link.upload_due(time.monotonic()) else link


async def _uploaded(session: aiohttp.ClientSession, link: Link, member: Member) -> Link:
    """The second of two equal bodies against the shorter of two empty ones.

    The first body widens TCP's window: without, a way that is far but carries much is taken for a thin one.
    """
    url, size = f"http://{member.address}{member.path}{SINK}", link.next_bytes
    took = []
    for length in (0, size, 0, 0, size):
        try:
            status, seconds = await _seconds(session, "POST", url, random.randbytes(length))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return link.not_uploaded(time.monotonic())
        if status != TAKEN:  # an application that is older than this
            return link.not_uploaded(time.monotonic())
        took.append(seconds)
    return link.uploaded(size, took[-1] - min(took[2:4]), time.monotonic())


async def _seconds(session: aiohttp.ClientSession, method: str, url: str, body: bytes = b"") -> tuple[int, float]:
    """The status, and the time from sending to the whole answer."""
    started = time.monotonic()
    async with session.request(method, url, data=body or None, allow_redirects=False) as answer:
        await answer.content.read(4096)
        return answer.status, time.monotonic() - started
