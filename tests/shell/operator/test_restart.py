"""What a controller that is started anew finds out, over fakes of Ray and of the gateway and a store in a folder."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from autoglm_operator.controller import AlwaysLeading, Controller, Parts
from autoglm_operator.local.store import FileStore
from autoglm_operator.settings import Pace
from autoglm_operator.store import DEPLOYMENT, SITE, JsonObject, ObjectKey
from support import manifests
from support.fake_gateway import FakeGateway
from support.fake_ray import FakeRay

KEY = ObjectKey(DEPLOYMENT, "default", "phones")
PACE = Pace(busy_poll_s=0.05, idle_poll_s=0.1, gateway_poll_s=0.05)


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    ray = FakeRay()
    ray.start()
    yield ray
    ray.close()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    gateway.start()
    yield gateway
    gateway.close()


def objects(ray: FakeRay, **spec: Any) -> dict[ObjectKey, JsonObject]:
    token = {"namespace": "ray", "name": "token"}
    backend = manifests.ray(address=ray.url, serveAddresses=[f"http://127.0.0.1:{ray.port}"], tokenSecret=token)
    deployment = manifests.deployment("phones", **spec)
    deployment["metadata"]["namespace"] = "default"
    return {ObjectKey(SITE, "", "a"): manifests.site("a", backend={"ray": backend}), KEY: deployment}


@asynccontextmanager
async def leading(store: FileStore, gateway: FakeGateway, epoch: int) -> AsyncIterator[None]:
    parts = Parts(
        store=store,
        fence=AlwaysLeading(epoch),
        gateways=(gateway.url,),
        gateway_token=lambda: gateway.token,
        now=lambda: datetime.now(UTC),
        clock=time.monotonic,
        pace=PACE,
    )
    task = asyncio.create_task(Controller(parts).lead())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)


def reason(store: FileStore) -> str | None:
    status = store.objects()[KEY].get("status") or {}
    return next((one["reason"] for one in status.get("conditions") or () if one["type"] == "Ready"), None)


def stored(folder: Path, made: dict[ObjectKey, JsonObject], ray: FakeRay) -> FileStore:
    store = FileStore(folder, "here")
    store.apply(made, {("ray", "token", "token"): ray.token or ""})
    return store


@pytest.mark.parametrize("gateway_forgot", [False, True])
async def test_a_spec_that_became_invalid_keeps_its_traffic_when_the_operator_starts_anew(
    tmp_path: Path, ray: FakeRay, gateway: FakeGateway, gateway_forgot: bool
) -> None:
    good = objects(ray, replicas=1)
    store = stored(tmp_path, good, ray)
    async with leading(store, gateway, 1):
        await until(lambda: reason(store) == "Answering")
    assert gateway.table is not None
    before = gateway.table.routes[0].endpoints
    if gateway_forgot:
        gateway.restart_empty()

    again = stored(tmp_path, objects(ray, model={"name": "autoglm-phone-9b", "uri": "ftp://weights"}), ray)
    async with leading(again, gateway, 2):
        await until(lambda: reason(again) == "InvalidSpec")
        await until(lambda: gateway.table is not None and gateway.table.epoch == 2)
        assert gateway.table.routes[0].endpoints == before
    assert ray.config("default.phones") is not None
