"""`kubectl autoglm`: what it says about a deployment, about traffic, and which patches steer a rollout."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from autoglm_operator.local import show
from autoglm_operator.plugin import commands, requests, rollouts
from autoglm_operator.plugin.cluster import ClusterFailed, NotThere
from autoglm_operator.plugin.ray_logs import replicas
from autoglm_operator.plugin.traffic import Sample, parse, top
from autoglm_operator.plugin.tree import tree
from autoglm_operator.store import SITE, ObjectKey

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
Json = dict[str, Any]


def condition(kind: str, status: str, reason: str, message: str = "") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 2,
        "lastTransitionTime": "2026-03-01T11:57:00Z",
    }


def deployment(rollout: Json | None = None, spec: Json | None = None, **status: Any) -> Json:
    found: Json = {
        "replicasReady": "3/4",
        "sitesReady": "1/2",
        "revision": "r2",
        "conditions": [
            condition("Ready", "False", "Unreachable", "jena: silent"),
            condition("SitesReady", "False", "Unreachable", "jena: silent"),
            condition("GatewayReady", "True", "Admitted"),
            condition("Progressing", "False", "Unreachable"),
            condition("Degraded", "True", "Unreachable", "jena: silent"),
        ],
        "sites": [
            {
                "name": "berlin",
                "state": "Ready",
                "ready": 3,
                "desired": 3,
                "revision": "r2",
                "since": NOW.isoformat(),
            },
            {"name": "jena", "state": "Unreachable", "ready": 0, "desired": 1, "message": "no answer since 11:50"},
        ],
        "gatewayTable": {"epoch": 3, "version": 7, "since": "2026-03-01T11:59:55Z"},
        **status,
    }
    if rollout is not None:
        found["rollout"] = rollout
    return {
        "kind": "AutoGLMDeployment",
        "metadata": {"name": "phones", "namespace": "team", "generation": 2},
        "spec": {"model": {"name": "autoglm-phone-9b"}, "rollout": {"steps": [{}, {}]}, **(spec or {})},
        "status": found,
    }


BERLIN: Json = {
    "metadata": {"name": "berlin"},
    "spec": {"tier": "edge"},
    "status": {
        "phase": "Connected",
        "rayVersion": "2.60.0",
        "since": "2026-03-01T11:59:58Z",
        "capacity": [{"resource": "GPU", "total": 8.0, "available": 5.0}],
    },
}

ROLLING: Json = {
    "phase": "Progressing",
    "message": "step 1 of 2: holds for 40 s more",
    "stable": "r1",
    "proven": True,
    "candidate": "r2",
    "weight": 10,
    "step": 1,
    "steps": [{"weight": 10, "hold": "60s"}, {"weight": 50}],
    "attempt": 3,
    "enteredAt": "2026-03-01T11:58:00Z",
    "stepSince": "2026-03-01T11:59:00Z",
    "revisions": [
        {"revision": "r0", "state": "Retired", "since": "2026-02-27T12:00:00Z"},
        {"revision": "r1", "state": "Stable", "since": "2026-02-28T12:00:00Z"},
        {"revision": "r2", "state": "Candidate", "since": "2026-03-01T11:58:00Z"},
    ],
    "gates": [{"metric": "errors", "state": "Passed", "message": "0 of 120"}],
    "traffic": [{"gateway": "http://g:9901", "shares": [{"revision": "r2", "percent": 10, "requests": 12}]}],
    "decisions": [{"at": "2026-03-01T11:58:00Z", "revision": "r2", "action": "Started", "reason": "the spec changed"}],
}


def test_the_tree_shows_price_and_age_of_free_capacity_and_why_it_could_not_be_seen() -> None:
    told = {"capacityObservedAt": "2026-03-01T11:50:00Z", "capacityMessage": "pods is forbidden"}
    berlin = {**BERLIN, "spec": {"tier": "edge", "price": 2.5}, "status": {**BERLIN["status"], **told}}
    lines = tree(deployment(), [berlin], NOW).splitlines()
    assert any(line.endswith("5 of 8 GPU free, price 2.5, free seen 10m ago") for line in lines)
    assert any(line.endswith("pods is forbidden") for line in lines)


def test_the_tree_tells_memory_in_gib_and_parts_of_a_cpu_in_few_digits() -> None:
    amounts = [
        {"resource": "CPU", "available": 0.6499999999999997, "total": 2},
        {"resource": "memory", "available": 18178198985, "total": 25023303113},
    ]
    berlin = {**BERLIN, "status": {**BERLIN["status"], "capacity": amounts}}
    assert "0.65 of 2 CPU free, 16.93 of 23.3 GiB memory free" in tree(deployment(), [berlin], NOW)


def test_the_table_of_sites_shows_free_accelerators_and_prices() -> None:
    told = {"free": "5/8 gpu", "capacityObservedAt": "2026-03-01T11:50:00Z", "capacityMessage": "pods is forbidden"}
    berlin = {**BERLIN, "spec": {"price": 2.5}, "status": {**BERLIN["status"], **told}}
    other = {"metadata": {"name": "jena"}, "spec": {}}
    found = show.sites({ObjectKey(SITE, "", one["metadata"]["name"]): one for one in (berlin, other)}, NOW).splitlines()
    assert found[0].split()[:6] == ["NAME", "CONNECTED", "TIER", "PHASE", "FREE", "PRICE"]
    assert "5/8 gpu (10m ago)   2.5" in found[1]
    assert "<none>" in found[2]


def test_the_tree_shows_each_site_with_its_cluster_and_only_what_is_not_well() -> None:
    assert tree(deployment(), [BERLIN], NOW).splitlines() == [
        "team/phones  Unreachable: jena: silent",
        "├─ model autoglm-phone-9b, revision r2, 3/4 replicas, 1/2 sites",
        "├─ SitesReady False for 3m: Unreachable: jena: silent",
        "├─ Degraded True for 3m: Unreachable: jena: silent",
        "├─ site berlin: Ready 3/3 revision r2, for 0s",
        "│  └─ edge Connected, Ray 2.60.0, answers for 2s, 5 of 8 GPU free",
        "├─ site jena: Unreachable 0/1 revision <none>, for <none>",
        "│  ├─ no answer since 11:50",
        "│  └─ there is no AutoGLMSite of this name",
        "└─ gateways: routing table 3/7 for 5s",
    ]


def test_the_tree_of_something_that_nobody_looked_at_says_so() -> None:
    new = {"kind": "AutoGLMDeployment", "metadata": {"name": "a", "namespace": "n"}, "spec": {"model": {"name": "m"}}}
    assert tree(new, [], NOW).splitlines()[0] == "n/a  not looked at yet"


def test_the_tree_shows_a_rollout_that_is_under_way() -> None:
    lines = tree(deployment(ROLLING), [], NOW).splitlines()
    at = lines.index("├─ rollout Progressing: r1 -> r2 at 10 %")
    assert lines[at + 1] == "│  └─ step 1 of 2: holds for 40 s more"


def test_the_tree_shows_what_scaling_decided() -> None:
    row = {
        "name": "berlin",
        "desired": 3,
        "reason": "LoadRose",
        "message": "11 under way",
        "since": "2026-03-01T11:55:00Z",
    }
    lines = tree(deployment(spec={"scaling": {"max": 8}}, scaling={"sites": [row]}), [], NOW).splitlines()
    at = lines.index("├─ scaling from 1 to 8")
    assert lines[at + 1] == "│  └─ berlin: 3 for 5m: LoadRose: 11 under way"


def metrics(requests: int, errors: int, slow: int, flying: int) -> str:
    name = 'deployment="team/phones"'
    return f"""# TYPE autoglm_gateway_requests_total counter
autoglm_gateway_requests_total{{code="200",{name}}} {requests}
autoglm_gateway_requests_total{{code="503",{name}}} {errors}
autoglm_gateway_first_byte_seconds_bucket{{{name},le="0.5"}} {requests - slow}
autoglm_gateway_first_byte_seconds_bucket{{{name},le="2.0"}} {requests}
autoglm_gateway_first_byte_seconds_bucket{{{name},le="+Inf"}} {requests}
autoglm_gateway_in_flight{{{name},site="berlin",endpoint="10.0.0.1:8000"}} {flying}
autoglm_gateway_queued_work_seconds{{{name},site="berlin",endpoint="10.0.0.1:8000"}} 1.5
autoglm_gateway_admitted{{{name},site="berlin",endpoint="10.0.0.1:8000"}} 1
autoglm_gateway_admitted{{deployment="team/quiet",site="jena",endpoint="10.0.0.2:8000"}} 0
garbage that is not a sample
"""


def rows(samples: list[Sample], seconds: float) -> list[list[str]]:
    return [line.split() for line in top(samples, seconds).splitlines()[1:]]


def test_top_adds_up_what_all_gateways_did_in_the_meantime() -> None:
    one = Sample(parse(metrics(100, 2, 10, 1)), parse(metrics(200, 4, 16, 3)))
    two = Sample(parse(metrics(50, 0, 0, 0)), parse(metrics(150, 2, 0, 1)))
    busy, quiet = rows([one, two], 10.0)
    assert busy == ["team/phones", "20.4", "2.0%", "<=0.5s", "<=0.5s", "4", "3.0s", "1", "2/2"]
    assert quiet == ["team/quiet", "0.0", "<none>", "<none>", "<none>", "0", "0.0s", "1", "0/2"]


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    (busy, _) = rows([Sample(parse(metrics(0, 0, 0, 0)), parse(metrics(100, 0, 10, 0)))], 1.0)
    assert busy[3:5] == ["<=0.5s", "<=2s"]


def test_a_gateway_that_was_started_anew_counts_from_nothing() -> None:
    (busy, _) = rows([Sample(parse(metrics(1000, 0, 0, 0)), parse(metrics(30, 0, 0, 0)))], 1.0)
    assert busy[1] == "30.0"


def test_a_gateway_that_did_not_answer_disturbs_nothing() -> None:
    assert rows([Sample({}, {}), Sample(parse(metrics(0, 0, 0, 0)), parse(metrics(5, 0, 0, 0)))], 1.0)[0][1] == "5.0"
    assert top([Sample({}, {})], 1.0) == "the gateways know no deployment"


REJECTED: Json = {**ROLLING, "rejected": {"revision": "r2", "reason": "errors", "at": "2026-03-01T11:00:00Z"}}
ANNOTATION = "serving.autoglm.dev/rollout-"


@pytest.mark.parametrize(
    ("verb", "word", "value"),
    [
        (rollouts.pause, "pause", "true"),
        (rollouts.promote, "promote", "r2/3"),
        (rollouts.abort, "abort", "r2/3"),
        (rollouts.approve, "approve", "r2/3/1"),
    ],
)
def test_a_verb_writes_the_annotation_that_the_operator_reads(verb: Any, word: str, value: str) -> None:
    assert verb(deployment(ROLLING)) == {"metadata": {"annotations": {ANNOTATION + word: value}}}


def test_resuming_takes_back_both_ways_of_pausing() -> None:
    assert rollouts.resume(deployment(ROLLING)) == {"metadata": {"annotations": {f"{ANNOTATION}pause": None}}}
    paused = deployment(ROLLING, {"rollout": {"paused": True}})
    assert rollouts.resume(paused)["spec"] == {"rollout": {"paused": False}}


def test_a_pause_needs_steps_for_nothing_else_reads_it() -> None:
    for wish in ({}, {"rollout": None}, {"rollout": {"maxSurge": 1}}):
        plain = deployment(ROLLING, {"rollout": None, **wish})
        with pytest.raises(rollouts.NothingToDo, match=r"has no rollout to pause: spec\.rollout\.steps is <none>"):
            rollouts.pause(plain)
    assert rollouts.pause(deployment()), "a rollout that did not begin can be held back"


class OneDeployment:
    """A cluster of one deployment that remembers what was written."""

    namespace = "team"

    def __init__(self, raw: Json) -> None:
        self.raw, self.patches = raw, list[Json]()

    def object(self, *_: Any) -> Json:
        return self.raw

    def patch(self, _: Any, __: str, change: Json) -> None:
        self.patches.append(change)


PAUSED_WAYS: dict[str, Json] = {
    "spec": {"spec": {"rollout": {"steps": [{}], "paused": True}}},
    "annotation": {"annotations": {f"{ANNOTATION}pause": "true"}},
    "none": {"annotations": {f"{ANNOTATION}pause": "false"}},
}


@pytest.mark.parametrize("verb", ["abort", "promote", "approve", "retry", "rollback", "pause", "resume"])
@pytest.mark.parametrize("way", PAUSED_WAYS)
def test_a_verb_says_that_a_paused_rollout_hears_it_only_after_resume(
    monkeypatch: pytest.MonkeyPatch, verb: str, way: str
) -> None:
    raw = deployment(REJECTED, PAUSED_WAYS[way].get("spec"))
    raw["metadata"]["annotations"] = PAUSED_WAYS[way].get("annotations", {})
    cluster = OneDeployment(raw)
    monkeypatch.setattr(commands, "_cluster", lambda: cluster)
    told = CliRunner().invoke(commands.main, ["rollout", verb, "phones"])
    assert (told.exit_code, len(cluster.patches)) == (0, 1), told.output
    late = way != "none" and verb not in ("pause", "resume")
    assert ("only after `kubectl autoglm rollout resume`" in told.output) == late


def test_a_rollback_goes_to_the_newest_retired_revision_or_to_a_known_one() -> None:
    assert rollouts.rollback(deployment(ROLLING), None) == {"spec": {"rollout": {"revision": "r0"}}}
    assert rollouts.rollback(deployment(ROLLING), "r1") == {"spec": {"rollout": {"revision": "r1"}}}
    with pytest.raises(rollouts.NothingToDo, match=r"r9 is not known; to go back to there are.*: r0, r1$"):
        rollouts.rollback(deployment(ROLLING), "r9")


@pytest.mark.parametrize("state", ["Candidate", "Rejected", "Superseded"])
def test_a_rollback_takes_no_revision_that_was_taken_back_or_is_being_measured(state: str) -> None:
    revisions = [*ROLLING["revisions"][:2], {**ROLLING["revisions"][2], "state": state}]
    with pytest.raises(rollouts.NothingToDo, match=f"r2 is {state}; to go back to there are.*: r0, r1$"):
        rollouts.rollback(deployment({**ROLLING, "revisions": revisions}), "r2")


def test_following_the_spec_again_undoes_a_rollback() -> None:
    back = deployment(ROLLING, {"rollout": {"revision": "r0"}})
    assert rollouts.follow(back) == {"spec": {"rollout": {"revision": None}}}
    with pytest.raises(rollouts.NothingToDo):
        rollouts.follow(deployment(ROLLING))


@pytest.mark.parametrize("verb", [rollouts.promote, rollouts.abort, rollouts.approve])
def test_without_a_candidate_there_is_nothing_to_steer(verb: Any) -> None:
    still = {key: value for key, value in ROLLING.items() if key != "candidate"} | {"phase": "Stable"}
    with pytest.raises(rollouts.NothingToDo, match="no revision is being rolled out"):
        verb(deployment(still))
    with pytest.raises(rollouts.NothingToDo, match="has no rollout"):
        verb(deployment(None, {"rollout": None}))


def test_a_retry_needs_something_that_was_taken_back() -> None:
    with pytest.raises(rollouts.NothingToDo):
        rollouts.retry(deployment(ROLLING), NOW)
    annotations = rollouts.retry(deployment(REJECTED), NOW)["metadata"]["annotations"]
    assert annotations[f"{ANNOTATION}retry"] == "2026-03-01T12:00:00Z"


def test_the_status_of_a_rollout_shows_steps_gates_traffic_revisions_and_decisions() -> None:
    text = rollouts.status(deployment(ROLLING), NOW)
    for part in (
        "r2, attempt 3",
        "step        1 of 2, 10 %",
        "errors   Passed   0 of 120",
        "r0",
        "Retired",
        "Started",
        "10 %",
    ):
        assert part in text, text


def test_the_words_are_those_of_the_policy() -> None:
    from autoglm_operator.api import parse_deployment
    from autoglm_operator.rollout.policy import of

    raw: Json = {
        "apiVersion": "serving.autoglm.dev/v1alpha1",
        "kind": "AutoGLMDeployment",
        "metadata": {"name": "phones", "namespace": "team", "uid": "u"},
        "spec": {"model": {"name": "m", "uri": "builtin://autoglm-tiny"}},
    }
    for verb, read in ((rollouts.promote, "promote"), (rollouts.abort, "abort"), (rollouts.approve, "approve")):
        raw["metadata"]["annotations"] = verb(deployment(ROLLING))["metadata"]["annotations"]
        assert getattr(of(parse_deployment(raw)), read).startswith("r2/3"), read
    raw["metadata"]["annotations"] = rollouts.pause(deployment(ROLLING))["metadata"]["annotations"]
    assert of(parse_deployment(raw)).paused


class Gateways:
    """A cluster with gateway pods; each has its own records, or says why it has none."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.records, self.shown = records, list[str]()

    def json(self, _: str) -> Json:
        return {"data": {"key": "dG9rZW4="}}

    def fetch(self, pod: Json, _: int, path: str, headers: Json) -> str:
        self.shown.append(headers["x-autoglm-gateway-token"])
        known = self.records[pod["metadata"]["name"]]
        if isinstance(known, Exception):
            raise known
        assert path in ("/v1/requests/a%2Fb", "/v1/requests/a-b")
        return str(known)

    def find(self) -> requests.Search:
        volume = {"name": "token", "secret": {"secretName": "s", "items": [{"key": "key", "path": "token"}]}}
        pods = [{"metadata": {"name": name, "namespace": "n"}, "spec": {"volumes": [volume]}} for name in self.records]
        return requests.find(cast("Any", self), pods, 1, "a/b", None)


def test_every_gateway_is_asked_for_a_request_until_one_knows_it() -> None:
    cluster = Gateways({"g1": NotThere("no"), "g2": ClusterFailed("timed out"), "g3": '{"requestId": "a/b"}', "g4": ""})
    found = cluster.find()
    assert (found.gateway, found.record) == ("g3", {"requestId": "a/b"})
    assert found.silent == {"g1": "does not know it", "g2": "timed out"}
    assert cluster.shown == ["token"] * 3


def test_a_token_from_a_file_is_shown_to_gateways_of_the_chosen_namespace_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may make pods anywhere may call one a gateway."""

    class Everywhere(Gateways):
        namespace = "ours"

        def pods(self, _: str, namespace: str | None = None) -> list[Json]:
            pods = [
                {"metadata": {"name": name, "namespace": name}, "status": {"podIP": "::1"}} for name in self.records
            ]
            return [pod for pod in pods if namespace in (None, pod["metadata"]["namespace"])]

    cluster = Everywhere({"theirs": NotThere("no"), "ours": '{"requestId": "a/b"}'})
    monkeypatch.setattr(commands, "_cluster", lambda: cluster)
    file = tmp_path / "token"
    file.write_text("secret")
    asked = CliRunner().invoke(commands.main, ["explain", "a-b", "--gateway-token-file", str(file), "-o", "json"])
    assert cluster.shown == ["secret"], asked.output
    cluster.namespace = "empty"
    none = CliRunner().invoke(commands.main, ["explain", "a-b", "--gateway-token-file", str(file)])
    assert "no gateway of the chart runs in namespace empty" in none.output
    assert cluster.shown == ["secret"]


@pytest.mark.parametrize("answer", ["", "[]", "{}", "<html>"])
def test_what_is_no_record_is_not_shown_as_one(answer: str) -> None:
    found = Gateways({"g1": answer}).find()
    assert found.record is None
    assert "not a record of a request" in found.silent["g1"]


def test_replicas_are_those_of_every_application_of_the_deployment() -> None:
    def application(uid: str, name: str) -> Json:
        found = {"replica_id": f"id-{name}", "node_id": "n1", "log_file_path": f"/serve/{name}.log"}
        return {
            "deployed_app_config": {"args": {"uid": uid}},
            "deployments": {"Engine": {"replicas": [found, {"replica_id": "starting"}]}},
        }

    document = {
        "applications": {
            "team.phones": application("ours", "a"),
            "team.phones.r2": application("ours", "b"),
            "team.tablets": application("theirs", "c"),
            "by-hand": {"deployed_app_config": None},
        }
    }
    assert {replica.file for replica in replicas(document, "ours")} == {"serve/a.log", "serve/b.log"}
    assert replicas({}, "ours") == ()
