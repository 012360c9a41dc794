"""Rollouts in steps on real Ray with a model that has learned to tap: copies are compared, shares grow, and a bad one goes.

The gates measure what the models really answer. Clients ask for a tap on a screen all the while, in sessions of their own.
"""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from autoglm_serving.agreement import action_of
from autoglm_serving.training.examples import SYSTEM
from support.kubernetes import ROOT, ControlPlane
from support.pictures import data_url
from support.ray import RayCluster
from support.traffic import Account, Traffic
from support.whole_path import WholePath

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]

NAME, MODEL = "taps", "autoglm-taps"
TRAINED, RANDOM = "builtin://autoglm-tiny-grounded", "builtin://autoglm-tiny"
SAMPLES = 12
ROLLOUT: dict[str, Any] = {
    "maxSurge": 1,
    "mirror": {"percent": 100, "tolerance": 20},
    "steps": [{"weight": 0, "hold": "1s"}, {"weight": 50, "hold": "1s"}],
    "gates": [
        {"metric": "agreement", "minimum": 0.9, "minSamples": SAMPLES},
        {"metric": "errors", "maximum": 0, "minSamples": SAMPLES},
    ],
}
SESSIONS = 16


def tap() -> dict[str, Any]:
    """A request for a tap on a screen that the model never saw, at the size that it learned at."""
    with Image.open(ROOT / "data/screens-test/images/test-0-000000.png") as opened:
        small = opened.convert("RGB").resize((336, 746))
    data = io.BytesIO()
    small.save(data, "PNG")
    image = {"type": "image_url", "image_url": {"url": data_url(data.getvalue())}}
    parts = [image, {"type": "text", "text": "点击旅行照片"}]
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": parts}]
    return {"model": MODEL, "messages": messages, "max_tokens": 32, "temperature": 0}


@pytest.fixture(scope="module")
def path(
    api_server: ControlPlane, ray_head: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholePath]:
    with WholePath(api_server, ray_head, tmp_path_factory.mktemp("canary")).running() as path:
        path.apply_deployment(NAME, MODEL, TRAINED, rollout=ROLLOUT)
        path.wait_ready(NAME)
        yield path


def rollout(path: WholePath) -> dict[str, Any]:
    return dict(path.deployment(NAME)["status"].get("rollout") or {})


def actions(path: WholePath) -> list[str]:
    return [one["action"] for one in rollout(path).get("decisions") or ()]


def traffic(path: WholePath) -> Traffic:
    return Traffic([path.url], tap(), rate=1.0, sessions=SESSIONS, most=3)


def revisions(account: Account) -> list[str]:
    """The revisions that answered, in the order of their first answers."""
    return list(dict.fromkeys(one.revision for one in account.outcomes))


def test_a_revision_that_taps_the_same_goes_through_its_steps_and_takes_over_without_a_lost_request(
    path: WholePath, ray_head: RayCluster
) -> None:
    first, base = rollout(path)["stable"], path.application(NAME)
    with traffic(path) as load:
        load.wait_answered(3)
        path.patch(NAME, {"limits": {"maxQueue": 65}})
        path.wait(lambda: actions(path)[-1:] == ["Promoted"], "the revision that taps the same is promoted", 900)
        path.wait_ready(NAME)
        path.wait(lambda: base not in ray_head.configs(), "the old application is gone")
        load.wait_answered(3)
    done = rollout(path)
    assert actions(path) == ["Started", "Advanced", "Advanced", "Promoted"]
    assert done["stable"] != first
    assert ray_head.configs()[f"{base}.2"]["args"]["revision"] == done["stable"]
    load.account.expect_none_lost(2 * SAMPLES)
    assert revisions(load.account) == [first, done["stable"]]
    assert load.account.outcomes[-1].revision == done["stable"]
    texts = {one.text for one in load.account.outcomes}
    assert len(texts) == 1, "both revisions are the same model"
    assert action_of(texts.pop()) is not None, "the model answers with an action, so actions were compared"


def test_a_revision_that_taps_elsewhere_is_taken_back_before_any_client_has_seen_it(
    path: WholePath, ray_head: RayCluster
) -> None:
    good = rollout(path)["stable"]
    with traffic(path) as load:
        load.wait_answered(3)
        path.patch(NAME, {"model": {"uri": RANDOM}})
        path.wait(lambda: rollout(path).get("phase") == "RolledBack", "the random model is taken back", 900)
        path.wait(
            lambda: len([name for name in ray_head.configs() if path.application(NAME) in name]) == 1, "it is gone"
        )
        load.wait_answered(3)
    taken_back = rollout(path)
    assert taken_back["stable"] == good
    assert "agreement" in taken_back["rejected"]["reason"]
    assert path.condition(NAME).get("reason") == "RolledBack"
    assert path.condition(NAME, "SitesReady").get("status") == "True"
    load.account.expect_none_lost(SAMPLES)
    assert revisions(load.account) == [good]


def test_the_way_back_to_an_earlier_revision_needs_no_steps(path: WholePath) -> None:
    known = rollout(path)["revisions"]
    retired = next(one["revision"] for one in known if one["state"] == "Retired")
    with traffic(path) as load:
        path.patch(NAME, {"rollout": ROLLOUT | {"revision": retired}})
        path.wait(lambda: rollout(path).get("stable") == retired, "the earlier revision serves again")
        load.wait_answered(3)
    load.account.expect_none_lost(3)
    assert load.account.outcomes[-1].revision == retired
