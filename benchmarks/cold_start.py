"""From nothing to the first answer, with the share of each phase, and what each process then holds in memory.

First on a Ray cluster that does not run yet, seen from outside; then the same inside of one fresh process, part by part,
without Ray. As in an image that was built well, compiled modules are kept: a run before the measured ones makes them. Files
are in the page cache. Options: `--engine` (transformers or vllm), `--runs`.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load import Clients, body, run, screen
from benchmarks.machine import describe, table

from autoglm_serving.config import EngineConfig
from support.processes import family, title
from support.ray import RayCluster, application
from support.serving import MODEL, app_config

URI = "builtin://autoglm-tiny"
START_S = 1200.0
SIZE = (360, 800)
TOKENS = 8
INSIDE = "--inside"
ENGINE, INGRESS = ":Engine", ":Ingress"
"""In the names that Ray gives to the processes of replicas, after the application's."""


def config(engine: str) -> Any:
    return app_config(engine=EngineConfig.model_validate({"name": engine, "maxConcurrency": 4, "maxModelLen": 8192}))


def first_answer(url: str, seed: str) -> float:
    picture = screen(random.Random(seed), *SIZE)
    seen, _ = run(url, [Clients("first", 1, 1, lambda *_: body(MODEL, "Open the settings.", TOKENS, picture))])
    if not seen[0].ok:
        raise SystemExit("the first request was not answered")
    return seen[0].whole_s


def outside(engine: str, folder: Path) -> tuple[dict[str, float], list[list[str]]]:
    """Seconds of each phase on Ray, and the memory of what runs then."""
    phases: dict[str, float] = {}
    ray, begun = RayCluster(folder / "ray"), time.monotonic()

    def reached(phase: str) -> None:
        nonlocal begun
        phases[phase] = time.monotonic() - begun
        begun = time.monotonic()

    try:
        ray.start()
        reached("Ray head")
        app = application(config(engine))
        ray.deploy(app, wait=False)
        end = time.monotonic() + START_S
        while not any(ENGINE in title(pid) for pid in _below(ray)):
            if time.monotonic() > end:
                raise SystemExit("Serve started no replica")
            time.sleep(0.05)
        reached("Serve: controller, proxy, import of the application, process of the replica")
        ray.wait_running(app["name"], START_S)
        reached("replicas: imports, model, decode worker")
        url = f"{ray.serve_address}{app['route_prefix']}/v1/chat/completions"
        phases["first answer"] = first_answer(url, "first")
        phases["(the next one)"] = first_answer(url, "second")
        return phases, memory(ray)
    finally:
        ray.stop()


def memory(ray: RayCluster) -> list[list[str]]:
    """Proportional set size by kind of process: what is shared counts once."""
    held: dict[str, list[float]] = {}
    for pid in _below(ray):
        size = _pss(pid)
        if size:
            held.setdefault(_kind(pid), []).append(size)
    rows = sorted(held.items(), key=lambda item: -sum(item[1]))
    return [
        [kind, str(len(sizes)), f"{statistics.median(sizes):.0f} MB", f"{sum(sizes):.0f} MB"] for kind, sizes in rows
    ]


def _below(ray: RayCluster) -> list[int]:
    return family(ray.head.pid)[1:] if ray.head.pid is not None else []


def _kind(pid: int) -> str:
    name = title(pid)
    kinds = {
        ENGINE: "engine replica", INGRESS: "ingress replica", "decode_worker": "decode worker",
        "VLLM": "vLLM's engine core", "ServeController": "Serve's controller", "ProxyActor": "Serve's proxy",
    }  # fmt: skip
    return next((kind for part, kind in kinds.items() if part in name), "Ray itself")


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def inside() -> dict[str, float]:
    """In a fresh process: what a replica does until it can answer, one part after the other."""
    phases: dict[str, float] = {}
    begun = time.monotonic()

    def reached(phase: str) -> None:
        nonlocal begun
        phases[phase] = time.monotonic() - begun
        begun = time.monotonic()

    import autoglm_serving.app.application

    reached("import of the application (Ray, Starlette)")
    import torch

    reached("import of torch")
    import transformers

    transformers.Glm4vForConditionalGeneration  # noqa: B018 - it is loaded when it is named
    reached("import of transformers")
    from autoglm_serving.engines.factory import create_engine
    from autoglm_serving.engines.options import TransformersOptions
    from autoglm_serving.engines.transformers_pictures import CacheBounds, Pictures
    from autoglm_serving.engines.transformers_runner import TransformersRunner
    from autoglm_serving.model.folder import check_folder
    from autoglm_serving.model.load import ModelImages, ModelTokenizer
    from autoglm_serving.model.locate import locate

    folder = check_folder(locate(URI))
    ModelTokenizer(folder)
    images = ModelImages(folder)
    reached("tokenizer and image processor")
    TransformersRunner(folder, Pictures(images, CacheBounds(0, 0)), TransformersOptions())
    reached("weights, and one token to see that they compute")
    engine = create_engine(config("transformers"))
    asyncio.run(_answers(engine, phases))
    assert torch is not None
    assert autoglm_serving.app.application is not None
    return phases


async def _answers(engine: Any, phases: dict[str, float]) -> None:
    from PIL import Image

    from autoglm_serving.engines.interface import GenerateRequest, ImagePart, Message, TextPart

    await engine.start()
    try:
        for number, phase in enumerate(("first answer", "(the next one)")):
            picture = Image.linear_gradient("L").resize(SIZE).rotate(number).convert("RGB")
            message = Message("user", (ImagePart(picture), TextPart("Open the settings.")))
            begun = time.monotonic()
            async for _ in engine.generate(GenerateRequest(phase, (message,), TOKENS)):
                pass
            phases[phase] = time.monotonic() - begun
    finally:
        await engine.close()


def rows(runs: list[dict[str, float]]) -> list[list[str]]:
    total = statistics.median(sum(value for phase, value in each.items() if phase[0] != "(") for each in runs)
    lines = []
    for phase in runs[0]:
        took = [each[phase] for each in runs]
        middle = statistics.median(took)
        share = f"{100 * middle / total:.0f} %" if phase[0] != "(" else ""
        lines.append([phase, f"{middle:.2f} s ({min(took):.2f}-{max(took):.2f})", share])
    return [*lines, ["all, without the last line", f"{total:.2f} s", ""]]


def main() -> None:
    if INSIDE in sys.argv:
        print(json.dumps(inside()))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    machine = describe()
    found: list[dict[str, float]] = []
    held: list[list[str]] = []
    parts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=f"{name}/compiled")
        for number in range(asked.runs + 1):
            phases, held = outside(asked.engine, Path(name) / str(number))
            found.append(phases)
        if asked.engine == "transformers":
            command = [sys.executable, "-m", "benchmarks", "cold_start", INSIDE]
            outputs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(asked.runs)]
            parts = [json.loads(each.stdout.splitlines()[-1]) for each in outputs]
    found = found[1:]
    print(f"{machine}; engine {asked.engine}, {asked.runs} runs, picture of {SIZE[0]}x{SIZE[1]}, {TOKENS} tokens\n")
    print(table(["on a Ray cluster that did not run", "median (range)", "share"], rows(found)))
    print()
    print(table(["process", "number", "each (PSS)", "together"], held))
    if parts:
        print()
        print(table(["inside of one process, without Ray", "median (range)", "share"], rows(parts)))


if __name__ == "__main__":
    main()
