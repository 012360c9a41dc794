"""One model at two sites, as a variant at one of them: `autoglm up` with two real Ray clusters, as a user sees it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pictures import data_url
from support.processes import Process, wait_until
from support.ray import RayCluster
from support.whole_path import SCREENSHOT, post_chat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

Json = dict[str, Any]

START_S = 600.0
AUTOGLM = (sys.executable, "-m", "autoglm_serving.cli")
MODEL = "autoglm-phone-9b"
APPLICATION = "default.phones"
SITES = ("region", "store")
VARIANT: Json = {
    "name": "int8",
    "quantization": "int8-weight",
    "sites": {"selector": {"matchLabels": {"memory": "small"}}},
    "quality": {"right": 38, "samples": 131},
}


def site(name: str, ray: RayCluster) -> tuple[Json, Json]:
    """A site and the Secret with its token."""
    secret = {"namespace": "default", "name": name}
    backend = {"address": ray.address, "serveAddresses": [ray.serve_address], "tokenSecret": secret}
    labels = {"memory": "small"} if name == "store" else {}
    made = {"apiVersion": "serving.autoglm.dev/v1alpha1", "kind": "AutoGLMSite"}
    return (
        {**made, "metadata": {"name": name, "labels": labels}, "spec": {"backend": {"ray": backend}}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"token": ray.token}},
    )


def deployment(floor: float) -> Json:
    model = {
        "name": MODEL,
        "uri": "builtin://autoglm-tiny",
        "variants": [VARIANT],
        "quality": {"right": 40, "samples": 131},
        "qualityFloor": floor,
    }
    made = {"apiVersion": "serving.autoglm.dev/v1alpha1", "kind": "AutoGLMDeployment"}
    spec = {
        "model": model,
        "routing": {"policy": "roundRobin"},
        "resolution": {"minShortSide": 112, "maxShortSide": 112},
        "worker": {"resources": {"cpu": "500m"}},
    }
    return {**made, "metadata": {"name": "phones"}, "spec": spec}


@dataclass
class Up:
    """A running `autoglm up`, its manifest and its two clusters."""

    process: Process
    folder: Path
    clusters: dict[str, RayCluster]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, floor: float) -> None:
        """The manifest with this floor."""
        objects = [each for name, ray in self.clusters.items() for each in site(name, ray)]
        (self.folder / "phones.yaml").write_text(yaml.safe_dump_all([*objects, deployment(floor)], sort_keys=False))

    def said(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.process.log_text(), re.MULTILINE)

    def autoglm(self, *args: str) -> str:
        command = [*AUTOGLM, *args, "--state-dir", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    def variants(self) -> str:
        """What `autoglm status` says of them, once the deployment is ready."""
        found = re.search(r"default/phones +True .* Answering +\w+ +(.*?)   ", self.autoglm("status"))
        return found.group(1).strip() if found else ""

    def ask(self) -> dict[str, str]:
        """The headers of one answer to a screenshot."""
        found = self.said(r"(http://127\.0\.0\.1:\d+)/v1/chat/completions")
        assert found is not None
        image = {"type": "image_url", "image_url": {"url": data_url(SCREENSHOT.read_bytes())}}
        content = [image, {"type": "text", "text": "打开设置"}]
        body = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": content}]}
        status, headers, text = post_chat(found.group(1), body, START_S)
        assert status == 200, text
        return headers

    def by_site(self) -> dict[str, dict[str, str]]:
        """The headers of one answer from each site, which take turns."""
        found: dict[str, dict[str, str]] = {}

        def both_answered() -> bool:
            answer = self.ask()
            found[answer["x-autoglm-site"]] = answer
            return set(found) == set(SITES)

        wait_until(both_answered, "both sites answered", START_S)
        return found

    def options(self, name: str) -> Json:
        """What the engine at a site was told."""
        options: Json = self.clusters[name].configs()[APPLICATION]["args"].get("engine", {}).get("options", {})
        return options


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("variants")
    clusters = {name: RayCluster(folder / name, num_cpus=1) for name in SITES}
    try:
        for cluster in clusters.values():
            cluster.start()
        command = [*AUTOGLM, "up", str(folder / "phones.yaml"), "--port", "0", "--state-dir", str(folder / "state")]
        up = Up(Process("autoglm up", command, log=folder / "up.log"), folder, clusters)
        up.write(floor=0.9)
        with up.process:
            up.process.wait_for(lambda: up.said(r"why there: autoglm explain") is not None, "it answers", START_S)
            yield up
            up.process.interrupt()
            up.process.wait()
    finally:
        for cluster in clusters.values():
            cluster.stop()


def test_each_site_runs_its_form_of_the_model_and_every_answer_says_which(up: Up) -> None:
    assert up.variants() == "base 1, int8 1"
    assert (up.options("region"), up.options("store")) == ({}, {"variant": "int8-weight"})
    answers = up.by_site()
    assert {name: answer["x-autoglm-variant"] for name, answer in answers.items()} == {
        "region": "base",
        "store": "int8",
    }
    assert answers["region"]["x-autoglm-revision"] != answers["store"]["x-autoglm-revision"]


def test_explain_tells_which_variant_answered_how_good_it_is_and_why_it_is_there(up: Up) -> None:
    request = up.by_site()["store"]["x-request-id"]
    text = up.autoglm("explain", request)
    assert re.search(r"variant +int8: 38 of 131 tasks right .*, 95.0% of what the model itself solves", text), text
    text = up.autoglm("explain", "agd/phones")
    assert re.search(r"^region +base +no variant is for this site$", text, re.MULTILINE), text
    assert re.search(r"^store +int8 +int8 is for this site$", text, re.MULTILINE), text


def test_a_floor_above_it_brings_the_model_itself_to_that_site_and_touches_no_other(up: Up) -> None:
    """Requests go on meanwhile, at the other site where need be."""
    untouched = up.clusters["region"].replica_ids(APPLICATION)
    replaced = up.clusters["store"].replica_ids(APPLICATION)
    up.write(floor=0.96)
    seen: list[tuple[str, str]] = []

    def settled() -> bool:
        answer = up.ask()
        seen.append((answer["x-autoglm-site"], answer["x-autoglm-variant"]))
        return ("store", "base") in seen and up.variants() == "base 2"

    wait_until(settled, "the store runs the model itself", START_S)
    assert {variant for name, variant in seen if name == "region"} == {"base"}
    first = seen.index(("store", "base"))
    assert ("store", "int8") not in seen[first:]
    assert up.options("store") == {}
    assert up.clusters["region"].replica_ids(APPLICATION) == untouched
    assert not up.clusters["store"].replica_ids(APPLICATION) & replaced
    text = up.autoglm("explain", "agd/phones")
    assert re.search(
        r"^store +base +int8 is left out: it solves 0.9500 of .* the floor is 0.96$", text, re.MULTILINE
    ), text
