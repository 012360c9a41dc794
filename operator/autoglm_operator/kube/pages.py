"""Lists of the API server, page by page."""

from collections.abc import AsyncIterator

from autoglm_operator.kube.api import Call, KubeApi
from autoglm_operator.store import JsonObject

PAGE = 500


async def pages(api: KubeApi, path: str, query: tuple[tuple[str, str], ...] = ()) -> list[JsonObject]:
    """All objects of a collection, straight from the API server. `query` may select some of them."""
    return [one async for page in each_page(api, path, query) for one in page]


async def each_page(
    api: KubeApi, path: str, query: tuple[tuple[str, str], ...] = ()
) -> AsyncIterator[list[JsonObject]]:
    """The same page by page, so that no more than one has to be kept.

    The API server gives no pages of what it has in memory: with resourceVersion=0 everything comes at once.
    """
    token = ""
    while True:
        more = (("continue", token),) if token else ()
        page = await api.request(Call("GET", path, (("limit", str(PAGE)), *query, *more)))
        token = (page.get("metadata") or {}).get("continue") or ""
        yield page.pop("items", None) or []
        if not token:
            return
