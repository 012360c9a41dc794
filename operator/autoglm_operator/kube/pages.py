"""Lists of the API server, page by page."""

import asyncio
from collections.abc import AsyncIterator

from autoglm_operator.kube.api import Call, KubeApi
from autoglm_operator.store import JsonObject

PAGE = 500


async def pages(
    api: KubeApi, path: str, query: tuple[tuple[str, str], ...] = (), within_s: float | None = None
) -> list[JsonObject]:
    """All objects of a collection, straight from the API server. `query` may select some of them."""
    return [one async for page in each_page(api, path, query, within_s) for one in page]


async def each_page(
    api: KubeApi, path: str, query: tuple[tuple[str, str], ...] = (), within_s: float | None = None
) -> AsyncIterator[list[JsonObject]]:
    """The same page by page, so that no more than one has to be kept. TimeoutError when one page takes longer than `within_s`.

    The API server gives no pages of what it has in memory: with resourceVersion=0 everything comes at once.
    """
    token = ""
    while True:
        more = (("continue", token),) if token else ()
        async with asyncio.timeout(within_s):
            page = await api.request(Call("GET", path, (("limit", str(PAGE)), *query, *more)))
        token = (page.get("metadata") or {}).get("continue") or ""
        yield page.pop("items", None) or []
        if not token:
            return
