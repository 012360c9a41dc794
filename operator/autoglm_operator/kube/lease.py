"""The Lease by which operators choose a leader, as the API server keeps it."""

import base64
import binascii
import json
from dataclasses import dataclass, field

from autoglm_operator.kube.api import Call, Forbidden, KubeApi
from autoglm_operator.store import JsonObject, NotFound


@dataclass
class KubeLease:
    """One coordination.k8s.io/v1 Lease. Give it a `KubeApi` of its own, so that slow calls cannot starve a renewal.

    It belongs to `owner`, with which it goes: nothing else takes it away when the operator is uninstalled.
    """

    api: KubeApi
    namespace: str
    name: str
    owner: JsonObject | None = None

    _adopts: bool = field(default=True, init=False)
    """Whether a stored Lease of another owner becomes ours; not where the API server forbids just that."""

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
        return await self.api.request(Call("POST", self._collection, (), self._owned(body)))

    async def replace(self, body: JsonObject) -> JsonObject:
        """Replaces it; `Conflict` when it changed since it was read.

        Where the admission plugin OwnerReferencesPermissionEnforcement runs, another owner takes the right to delete the
        Lease, which the operator does not have: then the stored owner stays.
        """
        owned = self._owned(body) if self._adopts else body
        try:
            return await self._put(owned)
        except Forbidden:
            if owned == body:
                raise
        kept = await self._put(body)
        self._adopts = False
        return kept

    async def _put(self, body: JsonObject) -> JsonObject:
        return await self.api.request(Call("PUT", f"{self._collection}/{self.name}", (), body))

    def _owned(self, body: JsonObject) -> JsonObject:
        if self.owner is None:
            return body
        return {**body, "metadata": {**body["metadata"], "ownerReferences": [self.owner]}}


def account_of(token: str, namespace: str) -> JsonObject | None:
    """The ServiceAccount whose token this is, as the owner of an object in the namespace; None for any other token.

    The API server checks the token with every call; here it is only read.
    """
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["kubernetes.io"]
        account = {key: str(claims["serviceaccount"][key]) for key in ("name", "uid")}
        if claims["namespace"] != namespace:
            return None
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return {"apiVersion": "v1", "kind": "ServiceAccount", **account}
