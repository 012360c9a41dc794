"""The Serve application of a deployment: written the same way every time, and read without being fooled."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from autoglm_operator import applications, revision
from autoglm_operator.applications import History, Standing, clean, judge
from autoglm_operator.state import IMPORT_PATH
from autoglm_serving.config import AppConfig
from support.fleet import NOW, UID, application, deployment, foreign, wanted


def test_an_application_is_what_ray_and_the_serving_package_read() -> None:
    of = deployment(
        {
            "model": {"name": "autoglm-phone-9b", "uri": "hf://zai-org/AutoGLM-Phone-9B"},
            "engine": {
                "parallelism": {"tensor": 2},
                "maxConcurrency": 8,
                "options": {"rankPatienceS": "0.9", "enforceEager": "true", "threads": 16},
            },
            "worker": {"accelerator": {"type": "npu"}, "resources": {"cpu": "500m"}},
            "limits": {"maxImages": 4},
            "replicas": 3,
        }
    )
    body = wanted(of).application
    assert (body["name"], body["route_prefix"], body["import_path"]) == (
        "team.quickstart",
        "/team.quickstart",
        IMPORT_PATH,
    )
    assert body["deployments"] == [{"name": "Engine", "num_replicas": 3}]
    config = AppConfig.model_validate(body["args"])
    assert config.deployment == "team/quickstart"
    assert config.uid == UID
    assert config.revision == revision.of(config)
    assert config.engine.tensor_parallel == 2
    assert config.engine.options == {"enforceEager": True, "rankPatienceS": 0.9, "threads": 16}
    assert (config.worker.cpus, config.worker.gpus, config.worker.custom) == (0.5, 0.0, {"NPU": 2.0})
    assert config.max_ongoing_requests == 8
    assert config.limits.max_images == 4


@pytest.mark.parametrize(
    ("worker", "gpus", "custom"),
    [
        ({}, 0.0, {}),
        ({"accelerator": {"type": "gpu"}}, 1.0, {}),
        ({"accelerator": {"type": "gpu", "resourceName": "H100"}}, 0.0, {"H100": 1.0}),
        ({"accelerator": {"type": "npu"}}, 0.0, {"NPU": 1.0}),
    ],
)
def test_accelerators_are_counted_under_the_names_that_ray_uses(
    worker: dict[str, Any], gpus: float, custom: dict[str, float]
) -> None:
    found = applications.config(deployment({"worker": worker})).worker
    assert (found.gpus, found.custom) == (gpus, custom)


def test_the_same_deployment_gives_the_same_bytes() -> None:
    one = deployment({"engine": {"options": {"a": 1, "b": 2}}})
    two = deployment({"engine": {"options": {"b": 2, "a": 1}}})
    assert json.dumps(wanted(one).application) == json.dumps(wanted(two).application)


def test_scaling_changes_no_argument_because_ray_restarts_replicas_when_one_changes() -> None:
    one, many = wanted(deployment({"replicas": 1})), wanted(deployment({"replicas": 9}))
    assert one.application["args"] == many.application["args"]
    assert one.application["deployments"] != many.application["deployments"]


@pytest.mark.parametrize(
    ("spec", "is_new"),
    [
        ({"replicas": 5}, False),
        ({"suspend": True}, False),
        ({"sites": {"names": ["a"]}}, False),
        ({"routing": {"retries": 3}}, False),
        ({"resolution": {"mode": "dynamic"}}, False),
        ({"model": {"name": "other", "uri": "builtin://autoglm-tiny"}}, True),
        ({"model": {"name": "autoglm-phone-9b", "uri": "hf://zai-org/AutoGLM-Phone-9B"}}, True),
        ({"engine": {"maxModelLen": 4096}}, True),
        ({"engine": {"options": {"dtype": "float32"}}}, True),
        ({"worker": {"resources": {"cpu": 2}}}, True),
        ({"limits": {"maxImages": 3}}, True),
    ],
)
def test_a_revision_is_what_a_user_calls_a_new_version(spec: dict[str, Any], is_new: bool) -> None:
    assert (wanted(deployment(spec)).revision != wanted(deployment()).revision) is is_new


def test_a_revision_is_ten_hex_digits_and_the_same_for_ever() -> None:
    # Written down: another value here means that an upgrade of the operator restarts every model there is.
    assert wanted(deployment()).revision == "ff1943fc4d"


def test_what_was_submitted_and_is_read_back_from_ray_counts_as_the_same() -> None:
    of = deployment({"worker": {"resources": {"cpu": "1500m"}}, "engine": {"options": {"x": "0.5"}}})
    there = application(of)
    through_json = replace(
        there, args=json.loads(json.dumps(there.args)), deployments=({"name": "Engine", "num_replicas": 1},)
    )
    assert applications.matches(through_json, wanted(of))
    with_defaults = replace(
        through_json, deployments=({"name": "Engine", "num_replicas": 1, "max_queued_requests": -1},)
    )
    assert applications.matches(with_defaults, wanted(of)), "options that Ray adds are no reason to write"
    with_another = replace(
        through_json, deployments=(*through_json.deployments, {"name": "Ingress", "num_replicas": 9})
    )
    assert not applications.matches(with_another, wanted(of))


OF = deployment({"replicas": 2})
EARNED = History(earned=True, deployed=True)


@pytest.mark.parametrize(
    ("name", "there", "history", "expected"),
    [
        ("nothing is there", None, History(), ("Pending", "Deploying", 0, True)),
        ("it was removed by hand", None, History(deployed=True), ("Pending", "ApplicationMissing", 0, True)),
        ("a foreign one has the name", foreign(), History(), ("Conflict", "NameTaken", 0, False)),
        ("another resource has the name", application(OF, uid="x"), History(), ("Conflict", "NameTaken", 0, False)),
        ("it is on its way out", application(OF, "DELETING"), EARNED, ("Pending", "Deploying", 0, False)),
        (
            "it is on its way out, and Ray shows no configuration of it any more",
            replace(foreign(), status="DELETING"),
            EARNED,
            ("Pending", "Deploying", 0, False),
        ),
        ("it runs", application(OF), History(), ("Ready", "UpToDate", 2, False)),
        ("a replica is missing", application(OF, ready=1), History(), ("Degraded", "ReplicasMissing", 1, False)),
        ("it starts", application(OF, "DEPLOYING", ready=1), History(), ("Deploying", "Deploying", 0, False)),
        (
            "it starts to exist",
            application(OF, "NOT_STARTED", ready=0),
            History(),
            ("Deploying", "Deploying", 0, False),
        ),
        ("it scales", application(OF, "DEPLOYING", ready=1), EARNED, ("Deploying", "Scaling", 1, False)),
        (
            "old replicas still answer in a rollout",
            application(OF, "DEPLOYING", ready=2),
            History(deployed=True, rolling=True),
            ("Deploying", "RollingOut", 0, False),
        ),
        (
            "an old revision runs",
            application(OF, args={"revision": "0" * 10}),
            EARNED,
            ("Deploying", "RollingOut", 0, True),
        ),
        (
            "an argument was changed",
            application(OF, args={"maxOngoingRequests": 1}),
            EARNED,
            ("Deploying", "Deploying", 0, True),
        ),
        ("it is unhealthy", application(OF, "UNHEALTHY", ready=1), EARNED, ("Degraded", "Unhealthy", 1, False)),
        ("it is dead", application(OF, "UNHEALTHY", ready=0), EARNED, ("Failed", "Unhealthy", 0, False)),
        ("it failed", application(OF, "DEPLOY_FAILED", ready=0), History(), ("Failed", "DeployFailed", 0, False)),
        (
            "its model is not there",
            application(OF, "DEPLOY_FAILED", ready=0, message="x.ModelNotFound: no /m"),
            History(),
            ("Failed", "ModelNotFound", 0, False),
        ),
        (
            "there is no room",
            application(OF, "DEPLOYING", ready=0, message="taken more than 30s to be scheduled. total ..."),
            History(),
            ("Deploying", "InsufficientResources", 0, False),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_a_site_stands(name: str, there: Any, history: History, expected: tuple[str, str, int, bool]) -> None:
    found = judge(there, wanted(OF), history, NOW)
    assert (found.state, found.reason, found.ready, found.apply) == expected
    assert found.state == "Ready" or found.message, "whoever is not ready says why"


def test_a_scaled_application_is_changed_in_place_and_its_replicas_count_meanwhile() -> None:
    there = replace(application(OF, ready=5), deployments=({"name": "Engine", "num_replicas": 5},))
    assert judge(there, wanted(OF), EARNED, NOW) == Standing("Deploying", "Scaling", "scaling to 2 replicas", 2, True)


def failed(seconds_ago: float, ready: int = 0) -> Any:
    return application(OF, "DEPLOY_FAILED", ready=ready, deployed_at=NOW - timedelta(seconds=seconds_ago))


@pytest.mark.parametrize(
    ("tried_ago", "failing_for", "again"),
    [
        (29, 29, False),
        (31, 31, True),
        (60, 200, False),
        (141, 200, True),
        (599, 100_000, False),
        (601, 100_000, True),
    ],
)
def test_a_failed_application_is_tried_again_after_pauses_that_double_up_to_ten_minutes(
    tried_ago: float, failing_for: float, again: bool
) -> None:
    since: datetime = NOW - timedelta(seconds=failing_for)
    assert judge(failed(tried_ago), wanted(OF), History(failing_since=since), NOW).restart is again


def test_a_failed_application_is_not_taken_away_while_a_replica_still_answers() -> None:
    assert not judge(failed(10_000, ready=1), wanted(OF), History(), NOW).restart


RAY_ERROR = """The deployment failed to start. Error:
\x1b[36mray::ServeReplica:t.q:Engine.init()\x1b[39m (pid=1, ip=10.0.0.1)
  File "/opt/venv/lib/python3.11/site-packages/ray/serve/replica.py", line 12, in init
    await x
Traceback (most recent call last):
  File "/a/b.py", line 3, in f
    raise E
          ^^^
autoglm.ModelNotFound: no folder /models/none"""
CHAIN = """Traceback (most recent call last):
  File "a.py", line 1, in f
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in g
ValueError: bad weights"""


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("", ""),
        ("Deploying app 'x' failed.", "Deploying app 'x' failed."),
        (RAY_ERROR, "The deployment failed to start. Error: | autoglm.ModelNotFound: no folder /models/none"),
        (CHAIN, "KeyError: 'x' | ValueError: bad weights"),
        ("same\nsame\nsame", "same"),
    ],
)
def test_rays_words_are_shown_without_frames_and_noise(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_a_long_message_is_cut_to_a_kilobyte_without_breaking_a_character() -> None:
    shown = clean("模型" * 1000)
    assert len(shown.encode()) <= 1024
    assert shown.endswith("…")
    assert "�" not in shown


def named(replicas: int = 1, cluster: str = "east") -> applications.Wanted:
    config = revision.stamp(applications.config(deployment({"replicas": replicas}), cluster))
    return applications.wanted(config, replicas)


def test_an_application_names_the_cluster_of_its_resource_and_has_the_same_revision_as_without() -> None:
    assert named().application["args"]["cluster"] == "east"
    assert "cluster" not in wanted(deployment()).application["args"]
    assert named().revision == wanted(deployment()).revision


@pytest.mark.parametrize("cluster", ["", "west"])
def test_a_name_of_the_cluster_alone_restarts_nothing(cluster: str) -> None:
    there = application(deployment(), args={"cluster": cluster} if cluster else {})
    assert judge(there, applications.kept(there, named()), History(), NOW).state == "Ready"
    scaled = applications.kept(there, named(3))
    assert scaled.application["args"] == there.args
    assert scaled.application["deployments"] == [{"name": "Engine", "num_replicas": 3}]


def test_the_name_of_the_cluster_comes_with_the_next_change_that_matters() -> None:
    old = application(deployment({"engine": {"maxConcurrency": 2}}))
    assert applications.kept(old, named()).application["args"]["cluster"] == "east"
    assert applications.kept(None, named()) == named()
    theirs = application(deployment(), uid="uid-somebody")
    assert applications.kept(theirs, named()) == named()


def test_encoders_take_one_accelerator_of_the_replicas_kind_and_are_part_of_the_revision() -> None:
    of = deployment(
        {"worker": {"accelerator": {"type": "npu"}}, "encoder": {"max": 3, "wait": "1500ms", "cpu": "250m"}}
    )
    plain = deployment({"worker": {"accelerator": {"type": "npu"}}})
    encoder = applications.config(of).encoder
    assert encoder is not None
    assert (encoder.min_replicas, encoder.max_replicas, encoder.wait_s) == (1, 3, 1.5)
    assert (encoder.worker.cpus, encoder.worker.gpus, encoder.worker.custom) == (0.25, 0.0, {"NPU": 1.0})
    assert wanted(of).revision != wanted(plain).revision
    assert "encoder" not in wanted(plain).application["args"]
