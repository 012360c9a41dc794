"""From `kubectl apply` to an answered screenshot, on real parts: API server, operator, Ray, Envoy, picker, model.

The tests of this module tell one story in order on one deployment; each says in its name what a user then sees.
"""

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from autoglm_operator.api.quantities import seconds
from support.kubernetes import ControlPlane
from support.pictures import data_url
from support.ports import free_port
from support.ray import RayCluster, application, unique_name
from support.serving import app_config
from support.traffic import Traffic, small_question
from support.whole_path import READY_S, SCREENSHOT, WholePath

pytestmark = pytest.mark.timeout(1500)

MODEL = "autoglm-phone-9b"
SECOND_MODEL = "autoglm-second"


@pytest.fixture(scope="module")
def path(
    api_server: ControlPlane, ray_head: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholePath]:
    with WholePath(api_server, ray_head, tmp_path_factory.mktemp("path")).running() as path:
        yield path


@pytest.fixture(scope="module")
def foreign(ray_head: RayCluster, path: WholePath) -> Iterator[str]:
    """A Serve application of somebody else on the same Ray cluster."""
    name = unique_name()
    ray_head.deploy(application(app_config(uid="not-a-resource"), name=name, scripted=True))
    yield name
    ray_head.delete(name)


@pytest.fixture(scope="module")
def quickstart(path: WholePath, foreign: str) -> str:
    """The example, applied as it is and waited for as the README says."""
    name = path.apply_quickstart()
    try:
        path.kubectl("wait", "--for=condition=Ready", f"agd/{name}", f"--timeout={READY_S:g}s", timeout=READY_S + 60)
    except RuntimeError:
        path.wait(lambda: path.condition(name).get("status") == "True", "quickstart is Ready", 1.0)
    return name


def client(path: WholePath) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{path.url}/v1", api_key="unused", timeout=READY_S, max_retries=0)


def screenshot_message() -> Any:
    image = {"type": "image_url", "image_url": {"url": data_url(SCREENSHOT.read_bytes())}}
    return [{"role": "user", "content": [image, {"type": "text", "text": "打开设置"}]}]


def test_an_openai_client_gets_an_answer_to_a_screenshot(path: WholePath, quickstart: str) -> None:
    answer = client(path).chat.completions.create(
        model=MODEL,
        messages=screenshot_message(),
        max_tokens=16,
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert answer.usage.prompt_tokens > 100, "the picture was seen"


def test_an_openai_client_gets_tokens_as_a_stream(path: WholePath, quickstart: str) -> None:
    stream = client(path).chat.completions.create(
        model=MODEL,
        messages=screenshot_message(),
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert len(reasons) == 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens > 0
    assert len([chunk for chunk in chunks if chunk.choices]) >= 2


def test_answers_say_which_site_and_revision_gave_them(path: WholePath, quickstart: str) -> None:
    status, headers, _ = path.ask(small_question(MODEL))
    assert status == 200
    assert headers["x-autoglm-site"] == path.site
    assert headers["x-autoglm-revision"] == path.deployment(quickstart)["status"]["revision"]
    assert headers["x-request-id"]


def test_a_model_that_nobody_serves_is_a_404_in_openai_words(path: WholePath, quickstart: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client(path).chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"


def test_kubectl_get_and_describe_read_well(path: WholePath, quickstart: str) -> None:
    head, row = path.kubectl("get", "agd", quickstart).splitlines()
    assert head.split() == ["NAME", "READY", "REPLICAS", "SITES", "MODEL", "AGE"]
    assert row.split()[:5] == [quickstart, "True", "1/1", "1/1", MODEL]
    wide = path.kubectl("get", "agd", quickstart, "-o", "wide").splitlines()
    assert "Answering" in wide[1]
    described = path.kubectl("describe", "agd", quickstart)
    for words in ("Answering", "Admitted", path.site, "Events:"):
        assert words in described
    sites = path.api.kubectl("get", "ags", path.site).splitlines()
    assert sites[1].split()[:4] == [path.site, "True", "cloud", "Connected"]


def test_kubectl_scale_adds_a_replica_beside_the_one_that_serves(
    path: WholePath, ray_head: RayCluster, quickstart: str
) -> None:
    name = path.application(quickstart)
    before = set(ray_head.processes(name))
    path.kubectl("scale", f"agd/{quickstart}", "--replicas=2")
    path.wait_ready(quickstart)
    assert path.deployment(quickstart)["status"]["readyReplicas"] == 2
    after = set(ray_head.processes(name))
    assert before < after, "the first replica went on"
    path.kubectl("scale", f"agd/{quickstart}", "--replicas=1")
    path.wait_ready(quickstart)
    path.wait(lambda: len(ray_head.running_replicas(name)) == 1, "one replica is left")


def test_two_deployments_and_a_foreign_application_live_side_by_side(
    path: WholePath, ray_head: RayCluster, quickstart: str, foreign: str
) -> None:
    ours = set(ray_head.processes(path.application(quickstart)))
    theirs = ray_head.configs()[foreign]
    path.apply_deployment("second", SECOND_MODEL)
    path.wait_ready("second")
    for model in (MODEL, SECOND_MODEL):
        status, _, answer = path.ask(small_question(model))
        assert (status, answer["model"]) == (200, model)
    listed = {each.id for each in client(path).models.list()}
    assert {MODEL, SECOND_MODEL} <= listed
    assert set(ray_head.processes(path.application(quickstart))) == ours, "its neighbour's arrival restarted nothing"
    assert ray_head.configs()[foreign] == theirs


def test_an_application_that_somebody_deletes_in_ray_comes_back(
    path: WholePath, ray_head: RayCluster, quickstart: str, foreign: str
) -> None:
    name = path.application("second")
    old = set(ray_head.processes(name))
    assert old
    ray_head.delete(name, wait=False)
    path.wait(lambda: not old & set(ray_head.processes(name)), "the old replica is gone")
    path.wait(lambda: bool(ray_head.running_replicas(name)), "a new replica runs")
    path.wait_ready("second")
    assert path.ask(small_question(SECOND_MODEL))[0] == 200
    assert ray_head.details()["applications"][foreign]["status"] == "RUNNING"


def test_a_model_that_is_not_there_is_told_and_never_ready(path: WholePath, quickstart: str) -> None:
    path.apply_deployment("missing", "missing", "file:///no/such/model")
    found = path.wait_reason("missing", "SitesReady", "False", "ModelNotFound")
    assert "/no/such/model" in found["message"]
    assert path.condition("missing").get("status") != "True"
    path.kubectl("delete", "agd", "missing", "--timeout=300s")


def test_a_site_that_cannot_be_reached_is_told_and_does_not_block_deletion(path: WholePath, quickstart: str) -> None:
    site = f"{path.site}-away"
    path.apply_site(site, address=f"http://127.0.0.1:{free_port()}")
    path.apply_deployment("away", "away", sites={"names": [site]}, deletionDeadline="1s")
    path.wait(lambda: path.condition("away", "SitesReady").get("reason") == "Unreachable", "the site is Unreachable")
    assert path.condition("away")["status"] != "True"
    path.kubectl("delete", "agd", "away", "--timeout=300s")
    path.api.kubectl("delete", "ags", site, "--timeout=300s")


def test_a_wrong_token_is_told_while_requests_go_on(path: WholePath, quickstart: str) -> None:
    path.apply_token("wrong", "wrong")
    path.apply_site(secret="wrong")
    with Traffic([path.url], small_question(MODEL), rate=1.0) as traffic:
        path.wait(lambda: _connected(path)[1] == "Unauthorized", "the site says Unauthorized")
        traffic.wait_answered(5)
    traffic.account.expect_none_lost(5)
    path.wait(lambda: path.condition(quickstart).get("status") != "True", "what cannot be seen is not called Ready")
    path.apply_site()
    path.wait(lambda: _connected(path)[0] == "True", "the site is Connected again")
    path.wait_ready(quickstart)


def test_events_tell_the_story_in_order(path: WholePath, quickstart: str) -> None:
    told = path.kubectl("get", "events", "--field-selector", f"involvedObject.name={quickstart}")
    assert re.search(r"Normal\s+Answering", told)


def test_the_way_from_the_gateway_to_the_site_is_measured_and_told(path: WholePath, quickstart: str) -> None:
    def link() -> Any:
        return path.api.get("ags", path.site)["status"].get("link")

    path.wait(lambda: link() is not None, "a gateway has measured it")
    assert seconds(link()["rtt"]) > 0
    assert link()["gateways"] == 1
    bandwidths = path.gateway_metric("autoglm_gateway_link_bandwidth_bits_per_second")
    assert bandwidths, "the application takes bodies that measure it"


def test_deleting_takes_the_applications_and_leaves_what_is_foreign(
    path: WholePath, ray_head: RayCluster, quickstart: str, foreign: str
) -> None:
    path.kubectl("delete", "agd", quickstart, "second", "--ignore-not-found", f"--timeout={READY_S:g}s")
    for name in (quickstart, "second"):
        assert not path.api.exists("agd", name, path.namespace)
        ray_head.wait_for(path.application(name), lambda app: app is None, "is gone", READY_S)
    assert ray_head.details()["applications"][foreign]["status"] == "RUNNING"
    path.wait(lambda: path.ask(small_question(MODEL))[0] == 404, "the gateway has forgotten the model")
    path.api.kubectl("delete", "ags", path.site, "--timeout=300s")


def _connected(path: WholePath) -> tuple[str, str]:
    conditions = (path.api.get("ags", path.site).get("status") or {}).get("conditions") or ()
    return next(((one["status"], one["reason"]) for one in conditions if one["type"] == "Connected"), ("", ""))
