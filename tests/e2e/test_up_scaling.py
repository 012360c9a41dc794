"""Replicas that follow the load with `autoglm up`: real Ray, real gateway, real model. One replica, two, one, none, one."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml

from support.processes import wait_until
from support.up import START_S, Run

pytestmark = [pytest.mark.timeout(2400), pytest.mark.slow]

SCALING = {"min": 0, "max": 2, "target": {"queue": 1}, "downAfter": "20m"}
"""A replica takes minutes to start on a busy machine: nothing goes meanwhile."""

QUICKLY = SCALING | {"downAfter": "20s"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("scaling"))
    write(made, SCALING)
    with made.process:
        made.wait_said(r"why there: autoglm explain (\S+)")
        yield made
        made.process.interrupt()
        made.process.wait()
    made.autoglm("down")


def write(run: Run, scaling: dict[str, Any]) -> None:
    manifest = yaml.safe_load(run.manifest.read_text())
    manifest["spec"].pop("replicas", None)
    manifest["spec"]["scaling"] = scaling
    run.manifest.write_text(yaml.safe_dump(manifest))


def status(run: Run) -> dict[str, Any]:
    items = json.loads(run.autoglm("status", "-o", "json").stdout)["items"]
    return dict(next(item for item in items if item["kind"] == "AutoGLMDeployment")["status"])


def replicas(run: Run) -> tuple[int, int]:
    """Wanted and ready."""
    found = status(run)
    return found["scaling"]["sites"][0]["desired"], found["readyReplicas"]


def ask(url: str, tokens: int = 8) -> tuple[int, str]:
    """One short question: the status and Retry-After."""
    body = {
        "model": "autoglm-phone-9b",
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "Open the settings."}],
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, str(error.headers.get("retry-after", ""))


@contextmanager
def busy(url: str, clients: int, pause_s: float = 0.0) -> Iterator[list[int]]:
    """So many clients that ask one question after the other; the statuses of their answers."""
    over, answers = threading.Event(), list[int]()

    def client() -> None:
        while not over.is_set():
            answers.append(ask(url, 8 if pause_s else 100)[0])
            over.wait(pause_s)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_replicas_follow_the_load_up_and_down_to_none_and_back(run: Run) -> None:
    match = run.said(r"(http://127\.0\.0\.1:\d+)/v1/chat/completions")
    assert match is not None
    url = match.group(1)
    with busy(url, 3) as answers:
        wait_until(lambda: replicas(run)[0] == 2, "two are wanted", START_S, poll=1.0)
    assert set(answers) == {200}
    wait_until(lambda: replicas(run) == (2, 2), "there are two", START_S, poll=1.0)
    write(run, QUICKLY)
    with busy(url, 1, pause_s=4) as answers:
        wait_until(lambda: replicas(run) == (1, 1), "one goes, while one is still asked", START_S, poll=1.0)
        time.sleep(5)
    assert set(answers) == {200}, "the one that went had no client"
    wait_until(lambda: replicas(run) == (0, 0), "nobody asks any more", START_S, poll=1.0)
    wait_until(lambda: ask_ready(run) == "ScaledToZero", "it sleeps", START_S, poll=1.0)
    assert ask(url) == (503, "5")
    wait_until(lambda: ask(url)[0] == 200, "the request woke it", START_S, poll=1.0)
    decisions = [(one["before"], one["after"], one["reason"]) for one in status(run)["scaling"]["decisions"]]
    assert decisions == [(1, 2, "LoadRose"), (2, 1, "LoadFell"), (1, 0, "Idle"), (0, 1, "Woken")]
    text = run.autoglm("explain", "agd/quickstart").stdout
    assert re.search(r"^local +1 +Woken ", text, re.MULTILINE)
    assert re.search(r"local +1 -> 2 +LoadRose +[\d.]+ requests under way, 1 for each replica", text)


def ask_ready(run: Run) -> str:
    """The reason of Ready."""
    return str(next(one["reason"] for one in status(run)["conditions"] if one["type"] == "Ready"))
