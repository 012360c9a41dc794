"""A deployment at a real Ray cluster, written and read by the operator's own functions and client, without its process."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from autoglm_operator import applications, revision
from autoglm_operator.api import AutoGLMDeployment
from autoglm_operator.applications import History, Standing, Wanted
from autoglm_operator.ray_serve import ClusterView, Credentials, RayAddress, RayServeClient
from autoglm_operator.state import ApplyApplication, DeleteApplication
from support.ray import RayCluster

SITE = "here"
EARNED = History(earned=True, deployed=True)
POLL_S, GONE_S = 0.5, 600.0


@dataclass(frozen=True)
class Seen:
    """What the operator's status would have said at a moment."""

    at: float
    standing: Standing


class RaySite:
    """All of it happens in one event loop. `manifest` is an AutoGLMDeployment, which gets its uid here."""

    def __init__(self, cluster: RayCluster, manifest: dict[str, Any]) -> None:
        self.cluster = cluster
        named = {**manifest["metadata"], "uid": f"uid-{manifest['metadata']['name']}"}
        self._deployment = AutoGLMDeployment.model_validate({**manifest, "metadata": named})
        address = RayAddress.of(cluster.address, [cluster.serve_address])
        self._client = RayServeClient(address, self._credentials, lambda: None, time.monotonic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take the application away, whatever its state."""
        try:
            wanted = self.wanted(1)
            await self._client.apply([DeleteApplication(SITE, wanted.name, wanted.uid)])
            await asyncio.to_thread(self.cluster.wait_for, wanted.name, lambda app: app is None, "is gone", GONE_S)
        finally:
            await self._client.close()

    @property
    def name(self) -> str:
        """Of the application."""
        return self.wanted(1).name

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{self.cluster.serve_address}/{self.name}"

    def wanted(self, replicas: int) -> Wanted:
        """The application with so many replicas."""
        return applications.wanted(revision.stamp(applications.config(self._deployment)), replicas)

    async def apply(self, replicas: int) -> None:
        """Write it as the operator does."""
        await self._client.apply([ApplyApplication(SITE, self.wanted(replicas).application)])

    async def observe(self) -> ClusterView:
        """What the operator sees of the cluster."""
        return await self._client.observe()

    async def standing(self, replicas: int) -> Standing:
        """What the status says of the deployment here: `Ready`, or why not."""
        wanted = self.wanted(replicas)
        views = (await self.observe()).applications
        view = next((each for each in views if each.name == wanted.name), None)
        return applications.judge(view, wanted, EARNED, datetime.now(UTC))

    async def until(
        self, replicas: int, condition: Callable[[Standing], bool], what: str, deadline_s: float
    ) -> list[Seen]:
        """All that the operator saw until the condition held."""
        seen, end = list[Seen](), time.monotonic() + deadline_s
        while not seen or not condition(seen[-1].standing):
            assert time.monotonic() < end, f"waited {deadline_s:g} s in vain until {what}: {seen[-1:]}"
            await asyncio.sleep(POLL_S)
            standing = await self.standing(replicas)
            seen.append(Seen(time.monotonic(), standing))
        return seen

    async def _credentials(self) -> Credentials:
        return Credentials(self.cluster.token)
