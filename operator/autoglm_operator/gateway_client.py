"""A client of one gateway's admin API: hand over the routing table, fetch it and the report."""

import json
import os
from collections.abc import Callable
from typing import Any

import aiohttp
from pydantic import ValidationError

from autoglm_operator.api import Reason
from autoglm_operator.state import GatewayError
from autoglm_serving.routing_table import GatewayReport, RoutingTable, SignedTable, TableRefused, verify

CONNECT_S = 3.0
TOTAL_S = 10.0
ANSWER_LIMIT = 16 * 1024 * 1024


class GatewayFailed(Exception):
    """The gateway could not be reached or did not take the table. Its error is for a status; no secret is in it."""

    def __init__(self, message: str, reason: Reason = "GatewayUnreachable") -> None:
        super().__init__(message)
        self.error = GatewayError(reason, message)


class GatewayClient:
    """Keeps a connection to one gateway. `token` gives the bearer token anew for every request, so it may rotate."""

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        """`url` is the admin address, such as "http://10.0.0.7:9901"."""
        self.url = url.rstrip("/")
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def put_table(self, table: SignedTable) -> GatewayReport:
        """Hands the table over; the gateway's report after it."""
        return await self._call("PUT", "/v1/routing-table", table.model_dump(mode="json", by_alias=True))

    async def report(self) -> GatewayReport:
        """What the gateway has and sees."""
        return await self._call("GET", "/v1/report", None)

    async def table(self) -> RoutingTable | None:
        """The table that the gateway has; None if it has none, or does not tell."""
        status, data = await self._send("GET", "/v1/routing-table", None)
        if status != 200:
            return None
        try:
            return verify(SignedTable.model_validate_json(data), self._token().encode())
        except (ValidationError, TableRefused):
            return None

    async def close(self) -> None:
        """Closes the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, method: str, path: str, body: Any) -> GatewayReport:
        return _report(method, *await self._send(method, path, body))

    async def _send(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        try:
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": "application/json"}
            async with self._open().request(
                method, self.url + path, json=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await _bounded(response)
        except TimeoutError:
            raise GatewayFailed("the gateway did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayFailed(f"the gateway cannot be reached: {_kind(error)}") from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            timeout = aiohttp.ClientTimeout(total=TOTAL_S, sock_connect=CONNECT_S)
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                connector=aiohttp.TCPConnector(limit=2),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        data += chunk
        if len(data) > ANSWER_LIMIT:
            raise GatewayFailed(f"the gateway's answer is larger than {ANSWER_LIMIT // 2**20} MiB")
    return bytes(data)


def _kind(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__


def _report(method: str, status: int, data: bytes) -> GatewayReport:
    if status == 401 or (status == 403 and method == "GET"):
        raise GatewayFailed("the operator and the gateway hold different tokens", "Unauthorized")
    if method == "PUT" and 400 <= status < 500:
        raise GatewayFailed(_words(data) or f"the gateway answered {status}", "TableRefused")
    if status != 200:
        raise GatewayFailed(_words(data) or f"the gateway answered {status}")
    try:
        return GatewayReport.model_validate_json(data)
    except ValidationError:
        raise GatewayFailed("the gateway answered with something that is not a report") from None


def _words(data: bytes) -> str:
    try:
        error = json.loads(data)["error"]
        return str(error["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return ""
