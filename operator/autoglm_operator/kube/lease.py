"""The Lease by which operators choose a leader, as the API server keeps it."""

from dataclasses import dataclass

from autoglm_operator.kube.api import Call, KubeApi
from autoglm_operator.store import JsonObject, NotFound


@dataclass(frozen=True)
class KubeLease:
    """One coordination.k8s.io/v1 Lease. Give it a `KubeApi` of its own, so that slow calls cannot starve a renewal."""

    api: KubeApi
    namespace: str
    name: str

    @property
    def _collection(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    async def read(self) -> JsonObject | None:
        """The Lease, or None."""
        try:
            return await self.api.request(Call("GET", f"{self._collection}/{self.name}"))
        except NotFound:
            return None

    async def create(self, body: JsonObject) -> JsonObject:
        """Creates it; `Conflict` when another process was faster."""
        return await self.api.request(Call("POST", self._collection, (), body))

    async def replace(self, body: JsonObject) -> JsonObject:
        """Replaces it; `Conflict` when it changed since it was read."""
        return await self.api.request(Call("PUT", f"{self._collection}/{self.name}", (), body))
