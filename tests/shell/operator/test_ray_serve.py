"""The client of Ray's Serve REST API against a fake one: merging, ownership, tokens, faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from autoglm_operator.ray_serve import Credentials, RayAddress, RayServeClient, SiteFailure
from autoglm_operator.state import ApplyApplication, DeleteApplication
from autoglm_operator.store import NotLeading
from support.fake_ray import FakeRay, Fault

UID = "1b1c"
SITE = "region-1"
TOKEN = "right-token"


@pytest.fixture
def ray() -> Iterator[FakeRay]:
    cluster = FakeRay(TOKEN)
    cluster.start()
    yield cluster
    cluster.close()


class Keys:
    """The Secret: what is in it now, and how often it was read."""

    def __init__(self, token: str | None = TOKEN) -> None:
        self.token = token
        self.reads = 0

    async def __call__(self) -> Credentials:
        self.reads += 1
        return Credentials(self.token)


def client_of(ray: FakeRay, keys: Keys | None = None, **address: bool) -> RayServeClient:
    return RayServeClient(RayAddress.of(ray.url, [ray.url], **address), keys or Keys(), lambda: None, time.monotonic)


@pytest.fixture
async def client(ray: FakeRay) -> AsyncIterator[RayServeClient]:
    made = client_of(ray)
    yield made
    await made.close()


def wish(name: str = "test.phones", uid: str = UID, replicas: int = 1) -> ApplyApplication:
    return ApplyApplication(
        SITE,
        {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": "autoglm_serving.app:build",
            "args": {"uid": uid, "revision": "r1", "replicas": 1},
            "deployments": [{"name": "Engine", "num_replicas": replicas}],
        },
    )


async def reason_of(client: RayServeClient) -> str:
    with pytest.raises(SiteFailure) as caught:
        await client.observe()
    assert TOKEN not in str(caught.value)
    return caught.value.error.reason


async def test_an_application_is_put_once_and_then_seen(ray: FakeRay, client: RayServeClient) -> None:
    assert await client.apply([wish(replicas=2)])
    assert not await client.apply([wish(replicas=2)]), "nothing to change is nothing to write"
    assert len(ray.puts) == 1

    ray.deploy_s = 0
    seen = (await client.observe()).applications[0]
    assert (seen.name, seen.owner_uid, seen.revision, seen.ready_replicas) == ("test.phones", UID, "r1", 2)
    assert seen.status == "RUNNING"
    assert seen.deployed_at is not None


async def test_the_cluster_tells_its_version_and_capacity(client: RayServeClient) -> None:
    cluster = await client.observe()
    assert cluster.ray_version == "2.60.0"
    assert cluster.capacity is not None
    assert (cluster.capacity.total["CPU"], cluster.capacity.available["CPU"]) == (8.0, 7.0)


async def test_serve_is_started_where_the_site_says_and_is_left_there(ray: FakeRay, client: RayServeClient) -> None:
    await client.apply([wish()])
    assert ray.puts[0]["http_options"] == {"host": "127.0.0.1", "port": ray.port}
    ray.http_options = {"host": "0.0.0.0", "port": 1234, "root_path": "/serve"}
    await client.apply([wish(replicas=2)])
    assert ray.puts[1]["http_options"] == ray.http_options
    assert ray.puts[1]["grpc_options"] == {"port": 9000, "grpc_servicer_functions": []}
    assert ray.puts[1]["proxy_location"] == "EveryNode"


async def test_foreign_applications_stay_word_for_word(ray: FakeRay, client: RayServeClient) -> None:
    shop = ray.add_foreign("shop")
    ray.add_foreign("notebook", declarative=False)
    await client.apply([wish()])
    await client.apply([DeleteApplication(SITE, "test.phones", UID)])
    assert ray.config("shop") == shop
    assert "notebook" in ray.applications
    assert [one["name"] for one in ray.puts[-1]["applications"]] == ["shop"]


async def test_the_last_application_is_deleted_by_an_empty_list(ray: FakeRay, client: RayServeClient) -> None:
    await client.apply([wish()])
    await client.apply([DeleteApplication(SITE, "test.phones", UID)])
    assert ray.puts[-1]["applications"] == []
    assert ray.count("DELETE") == 0, "DELETE would end Serve itself"


@pytest.mark.parametrize("name", ["taken", "imperative"])
async def test_a_name_of_somebody_else_is_refused(ray: FakeRay, client: RayServeClient, name: str) -> None:
    ray.add_foreign(name, declarative=name == "taken")
    with pytest.raises(SiteFailure) as caught:
        await client.apply([wish(name)])
    assert caught.value.error.reason == "NameTaken"
    assert not ray.puts


async def test_an_application_of_another_resource_of_ours_is_refused_too(ray: FakeRay, client: RayServeClient) -> None:
    await client.apply([wish(uid="older")])
    with pytest.raises(SiteFailure) as caught:
        await client.apply([wish()])
    assert caught.value.error.reason == "NameTaken"
    assert not await client.apply([DeleteApplication(SITE, "test.phones", UID)])
    assert ray.config("test.phones") is not None


async def test_hidden_values_are_never_written_back(ray: FakeRay, client: RayServeClient) -> None:
    shop = ray.add_foreign("shop")
    shop["runtime_env"]["env_vars"]["DATABASE"] = "<redacted>"
    with pytest.raises(SiteFailure, match="hides values"):
        await client.apply([wish()])
    assert not ray.puts


async def test_a_foreign_configuration_that_cannot_be_read_is_not_deleted(ray: FakeRay, client: RayServeClient) -> None:
    ray.add_foreign("shop")
    ray.applications["shop"].config = None
    with pytest.raises(SiteFailure, match="a write would delete it"):
        await client.apply([wish()])
    assert not ray.puts


async def test_a_write_that_another_writer_undid_is_done_again(ray: FakeRay, client: RayServeClient) -> None:
    undone: list[str] = []

    def undo() -> None:
        if not undone:
            undone.append("test.phones")
            ray.remove("test.phones")

    ray.after_put = undo
    await client.apply([wish()])
    assert undone
    assert len(ray.puts) == 2
    assert ray.config("test.phones") is not None


async def test_writers_of_one_process_take_turns_and_lose_nothing(ray: FakeRay) -> None:
    shop = ray.add_foreign("shop")
    ray.before_put = lambda: time.sleep(0.02)
    clients = [client_of(ray) for _ in range(4)]
    try:
        await asyncio.gather(
            *(clients[number % 4].apply([wish(f"test.app-{number}", f"uid-{number}")]) for number in range(12))
        )
    finally:
        for one in clients:
            await one.close()
    assert {f"test.app-{number}" for number in range(12)} <= set(ray.applications)
    assert ray.config("shop") == shop
    assert ray.most_writers == 1


async def test_a_rotated_token_works_at_once(ray: FakeRay) -> None:
    keys = Keys()
    client = client_of(ray, keys)
    await client.observe()
    await client.observe()
    assert keys.reads == 1, "a good token is not read again"
    ray.token = keys.token = "rotated"
    await client.observe()
    assert keys.reads == 2
    await client.close()


async def test_a_wrong_token_is_named_and_not_shown(ray: FakeRay) -> None:
    client = client_of(ray, Keys("wrong"))
    assert await reason_of(client) == "Unauthorized"
    await client.close()


async def test_an_open_cluster_is_refused_before_it_sees_our_token(ray: FakeRay, client: RayServeClient) -> None:
    ray.token = None
    assert await reason_of(client) == "OpenCluster"
    assert all(request.token is None for request in ray.requests)
    with pytest.raises(SiteFailure):
        await client.apply([wish()])
    assert not ray.puts


async def test_an_open_cluster_is_used_where_the_site_allows_it(ray: FakeRay) -> None:
    ray.token = None
    client = client_of(ray, Keys(None), allow_open=True)
    await client.apply([wish()])
    assert ray.config("test.phones") is not None
    await client.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unauthorized", "Unauthorized"),
        ("forbidden", "Unauthorized"),
        ("error", "Unreachable"),
        ("garbage", "InvalidAnswer"),
        ("not-found", "InvalidAnswer"),
        ("redirect", "InvalidAnswer"),
    ],
)
async def test_a_fault_has_its_reason(ray: FakeRay, client: RayServeClient, fault: Fault, reason: str) -> None:
    await client.observe()
    ray.fault = fault
    assert await reason_of(client) == reason
    ray.fault = None
    await client.observe()


async def test_a_hanging_cluster_is_given_up(
    ray: FakeRay, client: RayServeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoglm_operator.ray_serve.client.READ_S", 0.3)
    ray.fault = "hang"
    assert await reason_of(client) == "Unreachable"


async def test_a_slow_cluster_is_waited_for(ray: FakeRay, client: RayServeClient) -> None:
    ray.put_fault = "slow"
    await client.apply([wish()])
    assert ray.config("test.phones") is not None


async def test_a_cluster_that_is_not_there_is_unreachable_until_it_comes(ray: FakeRay, client: RayServeClient) -> None:
    ray.stop()
    assert await reason_of(client) == "Unreachable"
    ray.start()
    await client.observe()


async def test_what_ray_refuses_comes_with_its_words(ray: FakeRay, client: RayServeClient) -> None:
    ray.refuse_config = "ValidationError: num_replicas must be positive"
    with pytest.raises(SiteFailure, match="num_replicas must be positive") as caught:
        await client.apply([wish()])
    assert caught.value.error.reason == "DeployFailed"


async def test_who_does_not_lead_writes_nothing(ray: FakeRay) -> None:
    def refuse() -> None:
        raise NotLeading("not the leader")

    client = RayServeClient(RayAddress.of(ray.url, [ray.url]), Keys(), refuse, time.monotonic)
    with pytest.raises(NotLeading):
        await client.apply([wish()])
    await client.close()
    assert not ray.puts


def test_credentials_do_not_show_themselves() -> None:
    assert TOKEN not in repr(Credentials(TOKEN, "pem"))
