"""Lists of the API server, page by page."""

from autoglm_operator.kube.api import Call, KubeApi
from autoglm_operator.store import JsonObject

PAGE = 500


async def pages(api: KubeApi, path: str, query: tuple[tuple[str, str], ...] = ()) -> list[JsonObject]:
    """All objects of a collection, straight from the API server. `query` may select some of them."""
    items: list[JsonObject] = []
    token = ""
    while True:
        more = (("continue", token),) if token else ()
        page = await api.request(Call("GET", path, (("limit", str(PAGE)), *query, *more)))
        items.extend(page.get("items") or ())
        token = (page.get("metadata") or {}).get("continue") or ""
        if not token:
            return items
