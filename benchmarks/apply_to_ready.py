"""From `kubectl apply` to an answered screenshot, by phase: API server, operator, gateway and Ray are real processes here.

Everything already runs, as in a cluster; the model's folder is in the cache. Each run applies a new deployment and deletes it.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.machine import describe, table

from support.kubernetes import ControlPlane
from support.pictures import data_url
from support.ray import RayCluster
from support.whole_path import SCREENSHOT, WholePath

RUNS = 3
PHASES = (
    ("written", "the operator has written the application into Ray"),
    ("engine", "the engine replica is up: process started, model loaded"),
    ("running", "Ray Serve calls the application RUNNING"),
    ("ready", "the gateway has got an answer and the condition is Ready"),
    ("answered", "a 1080x2400 screenshot is answered (16 tokens)"),
)
MODEL = "autoglm-bench"


def one_run(path: WholePath, number: int) -> dict[str, float]:
    name = f"bench-{number}"
    application = path.application(name)
    begun = time.monotonic()
    path.apply_deployment(name, MODEL)
    reached: dict[str, float] = {}
    checks = {
        "written": lambda: application in path.ray.configs(),
        "engine": lambda: bool(path.ray.running_replicas(application)),
        "running": lambda: path.ray.details()["applications"][application]["status"] == "RUNNING",
        "ready": lambda: path.condition(name).get("status") == "True",
        "answered": lambda: path.ask(question())[0] == 200,
    }
    for phase, check in checks.items():
        path.wait(check, f"{name} is {phase}")
        reached[phase] = time.monotonic() - begun
    path.kubectl("delete", "agd", name)
    path.ray.wait_for(application, lambda app: app is None, "is gone", 300)
    return reached


def question() -> dict[str, object]:
    image = {"type": "image_url", "image_url": {"url": data_url(SCREENSHOT.read_bytes())}}
    content = [image, {"type": "text", "text": "Open the settings."}]
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 16}


def main() -> None:
    machine = describe()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        api, ray = ControlPlane(Path(name) / "kubernetes"), RayCluster(Path(name) / "ray")
        try:
            api.start()
            ray.start()
            with WholePath(api, ray, Path(name) / "path").running() as path:
                path.wait(lambda: _connected(path), "the site is Connected")
                runs = [one_run(path, number) for number in range(RUNS)]
        finally:
            ray.stop()
            api.stop()
    print(f"{machine}; {RUNS} runs\n")
    before, rows = dict.fromkeys(range(RUNS), 0.0), []
    for phase, meaning in PHASES:
        took = [run[phase] - before[number] for number, run in enumerate(runs)]
        total = [run[phase] for run in runs]
        before = dict(enumerate(total))
        rows.append([meaning, _seconds(took), _seconds(total)])
    print(table(["until", "this phase, median (range)", "since apply, median (range)"], rows))


def _connected(path: WholePath) -> bool:
    status = path.api.get("ags", path.site).get("status") or {}
    return status.get("phase") == "Connected"


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} s ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
