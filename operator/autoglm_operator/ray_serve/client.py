"""A client of the Serve REST API of one Ray cluster.

- Writes are read, merge, write, read again, under one lock for each address in this process. What another process wrote
  in between shows in the second reading, and the write is done again.
- The token is read when there is none yet and when the cluster refuses the one we have: a rotated one works at once.
- A cluster that answers without a token is refused before ours is sent there.
- Redirects are not followed: they would carry the token elsewhere. Answers are bounded in size and time.
"""

import asyncio
import json
import os
import ssl
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from typing_extensions import override

from autoglm_operator.backend import ClusterView, SiteFailure
from autoglm_operator.ray_serve.document import (
    applications,
    capacity,
    differences,
    merged,
)
from autoglm_operator.state import ApplicationChange, Capacity

APPLICATIONS = "/api/serve/applications/"
CONNECT_S = 3.0
READ_S = 10.0
WRITE_S = 60.0
"""The first PUT on a cluster starts Serve there and returns only then."""

ANSWER_LIMIT = 16 * 1024 * 1024
WRITE_ATTEMPTS = 4
OPEN_CHECK_S = 60.0
SLOW_FIGURES_S = 30.0

_locks: "weakref.WeakValueDictionary[tuple[int, str], asyncio.Lock]" = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Credentials:
    """What opens a cluster. `repr` shows neither."""

    token: str | None
    ca_pem: str | None = None

    @override
    def __repr__(self) -> str:
        """No secrets in logs or tracebacks."""
        return "Credentials(...)"


@dataclass(frozen=True)
class RayAddress:
    """Where a cluster is. `serve_host` and `serve_port` are used only to start Serve where it does not run yet."""

    url: str
    serve_host: str = "0.0.0.0"  # noqa: S104 - the gateway reaches Serve from another machine
    serve_port: int = 8000
    allow_open: bool = False

    @classmethod
    def of(cls, url: str, serve_addresses: Sequence[str], allow_open: bool = False) -> "RayAddress":
        """Serve listens where the first of the site's serve addresses says; on loopback only if that is one."""
        first = urlsplit(serve_addresses[0]) if serve_addresses else urlsplit("//:8000")
        local = first.hostname in ("127.0.0.1", "localhost", "::1")
        host = "127.0.0.1" if local else cls.serve_host
        return cls(url.rstrip("/"), host, first.port or 8000, allow_open)


class RayServeClient:
    """Reads and changes the Serve applications of one Ray cluster. Every failure is a `SiteFailure`."""

    def __init__(
        self,
        address: RayAddress,
        credentials: Callable[[], Awaitable[Credentials]],
        before_write: Callable[[], None],
        clock: Callable[[], float],
        on_call: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """`before_write` raises when this process may not write. `on_call` hears (method, outcome, seconds)."""
        self.address = address
        self._read_credentials = credentials
        self._before_write = before_write
        self._clock = clock
        self._on_call = on_call
        self._credentials: Credentials | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed_until = float("-inf")
        self._figures_until = float("-inf")
        self._figures: tuple[str | None, Capacity | None] = (None, None)

    async def observe(self) -> ClusterView:
        """The applications, and figures of the cluster that may be up to 30 s old."""
        found = applications(await self._document())
        if self._clock() >= self._figures_until:
            self._figures = await self._read_figures()
            self._figures_until = self._clock() + SLOW_FIGURES_S
        return ClusterView(found, *self._figures)

    async def apply(self, changes: Sequence[ApplicationChange]) -> bool:
        """Makes the changes; returns whether anything had to be written. Foreign applications stay as they are."""
        options = {"host": self.address.serve_host, "port": self.address.serve_port}
        async with self._lock():
            wrote = False
            document = await self._document()
            for _ in range(WRITE_ATTEMPTS):
                body = merged(document, changes, options)
                if body is None:
                    return wrote
                self._before_write()
                await self._call("PUT", APPLICATIONS, body)
                wrote = True
                document = await self._document()
                if not differences(document, body):
                    return True
            raise SiteFailure(
                "InternalError", "another writer changes the applications of this Ray cluster all the time"
            )

    async def close(self) -> None:
        """Closes the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _lock(self) -> asyncio.Lock:
        key = (id(asyncio.get_running_loop()), self.address.url)
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = asyncio.Lock()
        return lock

    async def _document(self) -> Mapping[str, Any]:
        return await self._call("GET", APPLICATIONS)

    async def _read_figures(self) -> tuple[str | None, Capacity | None]:
        """Version and capacity. A cluster that does not tell them is still a good cluster."""
        try:
            version = (await self._call("GET", "/api/version")).get("ray_version")
            found = capacity(await self._call("GET", "/api/cluster_status"))
        except SiteFailure:
            return (None, None)
        return (version if isinstance(version, str) else None, found)

    async def _call(self, method: str, path: str, body: Any = None) -> Mapping[str, Any]:
        """One request with the token; a second one with a fresh token when the first was refused."""
        await self._refuse_open_cluster()
        known = self._credentials
        status, data = await self._send(method, path, body, await self._ensure_credentials())
        if status in (401, 403) and known is not None:
            await self._forget_credentials()
            status, data = await self._send(method, path, body, await self._ensure_credentials())
        if status in (401, 403):
            await self._forget_credentials()
            raise SiteFailure(
                "Unauthorized", f"Ray answered {status}: the token of the site's Secret is not the cluster's"
            )
        return _answer(method, status, data)

    async def _refuse_open_cluster(self) -> None:
        if self.address.allow_open or self._clock() < self._closed_until:
            return
        status, _ = await self._send("GET", APPLICATIONS, None, Credentials(None, await self._ca()))
        if status == 200:
            raise SiteFailure(
                "OpenCluster",
                "Ray answers without a token, so anybody can run code there: start it with RAY_AUTH_MODE=token",
            )
        if status in (401, 403):
            self._closed_until = self._clock() + OPEN_CHECK_S

    async def _ca(self) -> str | None:
        return (await self._ensure_credentials()).ca_pem

    async def _ensure_credentials(self) -> Credentials:
        if self._credentials is None:
            self._credentials = await self._read_credentials()
        return self._credentials

    async def _forget_credentials(self) -> None:
        self._credentials = None
        await self.close()

    async def _send(self, method: str, path: str, body: Any, credentials: Credentials) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if credentials.token:
            headers["Authorization"] = f"Bearer {credentials.token}"
        timeout = aiohttp.ClientTimeout(total=WRITE_S if method == "PUT" else READ_S, sock_connect=CONNECT_S)
        started = self._clock()
        try:
            session = self._open_session(credentials)
            async with session.request(
                method, self.address.url + path, json=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                status, data = response.status, await _bounded(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._on_call(method, type(error).__name__, self._clock() - started)
            self._closed_until = float("-inf")
            if _is_tls(error):
                await self._forget_credentials()
            raise _failure(error, self.address.url) from error
        self._on_call(method, str(status), self._clock() - started)
        return status, data

    def _open_session(self, credentials: Credentials) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            verify: ssl.SSLContext | bool = True
            if credentials.ca_pem:
                verify = ssl.create_default_context(cadata=credentials.ca_pem)
            connector = aiohttp.TCPConnector(limit=4, ssl=verify)
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > ANSWER_LIMIT:
            raise SiteFailure("InvalidAnswer", f"the answer is larger than {ANSWER_LIMIT // 2**20} MiB")
    return bytes(data)


def _answer(method: str, status: int, data: bytes) -> Mapping[str, Any]:
    text = data.decode(errors="replace")
    if status == 400:
        raise SiteFailure("DeployFailed", f"Ray refused the configuration: {_short(text)}")
    if status >= 500:
        raise SiteFailure(
            "Unreachable", f"Ray answered {status}: it is there, but its Serve controller does not answer"
        )
    if not 200 <= status < 300:
        raise SiteFailure("InvalidAnswer", f"the address answered {status}, which the Serve REST API of Ray never does")
    if method == "PUT":
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SiteFailure("InvalidAnswer", "the address answers, but not as the Serve REST API of Ray does")
    return value


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 500 else f"{words[:500]} ..."


def _is_tls(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientSSLError | ssl.SSLError)


def _words(error: OSError) -> str:
    """The system's words; asyncio puts its own, with the address, where they should be."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else type(error).__name__


def _failure(error: BaseException, url: str) -> SiteFailure:
    where = urlsplit(url).netloc.rpartition("@")[2]
    if _is_tls(error):
        return SiteFailure("TlsFailed", f"the certificate of {where} could not be verified")
    if isinstance(error, TimeoutError):
        return SiteFailure("Unreachable", f"{where} did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return SiteFailure("Unreachable", f"no connection to {where}: {_words(error.os_error)}")
    return SiteFailure("Unreachable", f"the connection to {where} broke: {type(error).__name__}")
