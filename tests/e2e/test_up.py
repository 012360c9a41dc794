"""`autoglm up` as a user runs it: one process, one manifest, no Kubernetes."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.kubernetes import ROOT
from support.processes import wait_until
from support.up import START_S, Run, autoglm

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("up"))
    with run.process:
        run.wait_said(r"why there: autoglm explain (\S+)")
        yield run
        run.process.interrupt()
        run.process.wait()
    run.autoglm("down")


def test_it_answers_the_screenshot_once_by_itself(run: Run) -> None:
    assert run.said(r"answered in .* by site local \(\d+ tokens in\)")


def test_the_printed_curl_line_works_as_it_is(run: Run) -> None:
    line = run.wait_said(r"^  (curl .*)$").group(1)
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=300, check=True)
    answer = json.loads(done.stdout)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] > 0


def test_status_shows_deployment_site_and_gateway(run: Run) -> None:
    text = run.autoglm("status").stdout
    assert re.search(r"^NAME +READY +REPLICAS +SITES +MODEL", text, re.MULTILINE)
    assert re.search(r"^default/quickstart +True +1/1 +1/1 +autoglm-phone-9b +Answering", text, re.MULTILINE)
    # What is free of the machine's processors, the price, and one application.
    assert re.search(r"^local +True +cloud +Connected +[\d.]+/[\d.]+ cpu +0 +1 ", text, re.MULTILINE), text
    assert re.search(r"^gateway http://127.0.0.1:\d+: envoy yes, table yes", text, re.MULTILINE)


def test_status_soon_shows_that_the_replica_holds_some_of_the_processors(run: Run) -> None:
    def free() -> tuple[float, float]:
        found = re.search(r"Connected +([\d.]+)/([\d.]+) cpu", run.autoglm("status").stdout)
        assert found is not None
        return float(found[1]), float(found[2])

    wait_until(lambda: free()[0] < free()[1], "fewer processors are free than there are", 240, poll=2.0)


def test_status_as_json_is_what_kubernetes_would_store(run: Run) -> None:
    found = json.loads(run.autoglm("status", "-o", "json").stdout)
    by_kind = {item["kind"]: item for item in found["items"]}
    conditions = {one["type"]: one["status"] for one in by_kind["AutoGLMDeployment"]["status"]["conditions"]}
    assert conditions["Ready"] == conditions["SitesReady"] == conditions["GatewayReady"] == "True"
    assert by_kind["AutoGLMSite"]["status"]["phase"] == "Connected"


def test_explain_tells_why_a_request_went_where_it_went(run: Run) -> None:
    request_id = run.wait_said(r"why there: autoglm explain (\S+)").group(1)
    text = run.autoglm("explain", request_id).stdout
    assert request_id in text
    assert "1080x2400" in text
    assert re.search(r"went to +local", text)


def test_explain_tells_the_conditions_of_a_deployment(run: Run) -> None:
    text = run.autoglm("explain", "agd/quickstart").stdout
    assert re.search(r"^Ready +True +Answering", text, re.MULTILINE)
    assert re.search(r"^local +Ready +1/1", text, re.MULTILINE)


def test_explain_of_something_unknown_says_what_there_is(run: Run) -> None:
    done = run.autoglm("explain", "agd/nothing")
    assert done.returncode == 1
    assert "agd/quickstart" in done.stderr
    assert "does not know request" in run.autoglm("explain", "no-such-request").stderr


def test_a_second_up_on_the_same_folder_is_refused_with_the_way_out(run: Run) -> None:
    done = run.autoglm("up", str(run.manifest), "--port", "0")
    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert "autoglm down" in done.stderr


def test_an_edited_file_is_applied_and_a_bad_edit_is_not(run: Run) -> None:
    good = yaml.safe_load(run.manifest.read_text())
    run.manifest.write_text(yaml.safe_dump({**good, "spec": {**good["spec"], "replicas": -1}}))
    run.wait_said(r"spec\.replicas: should be greater than or equal to 0")
    run.wait_said(r"the last good version goes on")
    routing = {"routing": {"retries": 1}}
    run.manifest.write_text(yaml.safe_dump({**good, "spec": {**good["spec"], **routing}}))
    run.wait_said(r"was edited: AutoGLMDeployment default/quickstart")

    def ready_again() -> bool:
        items = json.loads(run.autoglm("status", "-o", "json").stdout)["items"]
        found = next(item for item in items if item["kind"] == "AutoGLMDeployment")
        ready = next(one for one in found["status"]["conditions"] if one["type"] == "Ready")
        return bool(found["metadata"]["generation"] == ready["observedGeneration"] == 2 and ready["status"] == "True")

    wait_until(ready_again, "the second generation is Ready", START_S)


def test_an_interrupt_leaves_nothing_behind(run: Run) -> None:
    run.remember_temp_dirs()
    running = " ".join(run.leftovers())
    assert "gcs_server" in running, "the check finds Ray while it runs"
    assert "envoy" in running, "and Envoy"
    run.process.interrupt()
    assert run.process.wait() == 0
    assert "nothing is left running" in run.process.log_tail(1)
    assert run.leftovers() == []
    assert "nothing runs" in run.autoglm("status").stderr


def test_what_a_killed_run_left_is_ended_by_down(run: Run) -> None:
    if not run.process.running:
        run.process.start()
    run.process.wait_for(lambda: len(run.records()) == 2, "Ray and the gateway were started", START_S)
    run.remember_temp_dirs()
    run.process.kill()
    assert run.leftovers(), "a killed run cannot clean up"
    assert run.autoglm("down").stdout == "stopped\n"
    assert run.leftovers() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("kind: Pod\napiVersion: v1", "v1/Pod does not run here"),
        ("", "has no AutoGLMDeployment"),
        ("- 1", "is not a Kubernetes object"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_with_the_remedy(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(text)
    for command in (["up", "--state-dir", str(tmp_path / "state")], ["plan"]):
        done = autoglm(*command, str(path))
        assert done.returncode == 1
        assert words in done.stderr


def test_every_wrong_field_is_named_before_anything_starts(tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())
    manifest["spec"]["model"]["uri"] = "ftp://somewhere"
    manifest["spec"]["sites"] = {"names": ["elsewhere"]}
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest))
    done = autoglm("up", str(path), "--state-dir", str(tmp_path / "state"))
    assert "spec.model.uri" in done.stderr
    manifest["spec"]["model"]["uri"] = "builtin://autoglm-tiny"
    path.write_text(yaml.safe_dump(manifest))
    assert "remove spec.sites" in autoglm("up", str(path), "--state-dir", str(tmp_path / "state")).stderr
    assert not (tmp_path / "state" / "ray" / "ray.json").exists()


def test_plan_shows_the_application_and_starts_nothing() -> None:
    text = autoglm("plan", str(ROOT / "examples/quickstart.yaml")).stdout
    assert "put application default.quickstart on site local" in text
    found = json.loads(autoglm("plan", str(ROOT / "examples/two-sites.yaml"), "-o", "json").stdout)
    assert [change["site"] for change in found[0]["put"]] == ["region-1", "store-17"]
