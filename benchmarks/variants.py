"""Size, latency and accuracy of the quantised variants of a model: `python -m benchmarks variants [--model FOLDER]`.

Accuracy is that of `autoglm eval tiny` on the committed test screens; the lines of `spec.model` that say it follow the table
(docs/variants.md). Each variant is loaded anew in this process; the latencies are medians of processor time with the first
screen. With `--keep WORD` linear layers with it in their name stay as they are: which part of a model bears a variant.
`--layer` times one linear layer of each variant instead, for one token and for the many of a prompt.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.machine import describe, table
from PIL import Image

from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.options import Variant
from autoglm_serving.engines.quantised import VARIANTS, quantise, weight_bytes
from autoglm_serving.model.locate import locate
from autoglm_serving.training.dataset import open_screens
from autoglm_serving.training.evaluate import verdicts
from autoglm_serving.training.intervals import wilson
from autoglm_serving.training.replies import Replier

SCREENS = Path("data/screens-test")


def latencies(replier: Replier, picture: Image.Image, limit: int, runs: int) -> tuple[float, float]:
    """Seconds of processor time to the first token, and for each further one."""
    firsts, rests = [], []
    for _ in range(runs + 1):
        begun = time.process_time()
        replier.answers(picture, ["Tap the first button."], limit, max_new_tokens=1)
        first = time.process_time() - begun
        begun = time.process_time()
        replier.answers(picture, ["Tap the first button."], limit, max_new_tokens=17)
        firsts.append(first)
        rests.append((time.process_time() - begun - first) / 16)
    return statistics.median(firsts[1:]), statistics.median(rests[1:])


LAYER = (256, 1024)
"""Inputs and outputs."""
LEAST_S = 0.06


def layer() -> list[list[str]]:
    """One linear layer by variant: microseconds of processor time for some numbers of tokens."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for variant in VARIANTS:
            if variant == "int8-dynamic" and dtype is not torch.float32:
                continue
            model = torch.nn.Sequential(torch.nn.Linear(*LAYER, bias=False)).to(dtype)
            quantise(model, variant)
            times = [_processor_us(model, torch.randn(tokens, LAYER[0], dtype=dtype)) for tokens in (1, 8, 64)]
            rows.append([str(dtype).removeprefix("torch."), variant, *(f"{each:.0f} us" for each in times)])
    return rows


@torch.inference_mode()
def _processor_us(model: torch.nn.Module, inputs: torch.Tensor) -> float:
    """The best of three means."""
    model(inputs)
    found = []
    for _ in range(3):
        begun, times = time.process_time(), 0
        while time.process_time() - begun < LEAST_S:
            model(inputs)
            times += 1
        found.append((time.process_time() - begun) / times)
    return 1e6 * min(found)


def quantise_but(model: torch.nn.Module, variant: Variant, word: str) -> None:
    """As `quantise`, with the linear layers whose name holds the word as they were."""
    kept = {name: module for name, module in model.named_modules() if word and word in name and _is_linear(module)}
    quantise(model, variant)
    for name, module in kept.items():
        model.set_submodule(name, module)


def _is_linear(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="builtin://autoglm-tiny-grounded", help="folder or URI of the model")
    parser.add_argument("--short-side", type=int, default=336)
    parser.add_argument("--screens", type=int, default=0, help="how many screens, 0 for all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", default="", metavar="WORD", help="layers with this in their name stay as they are")
    parser.add_argument("--layer", action="store_true", help="time one layer of each variant instead")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    machine = describe()
    if asked.layer:
        print(f"{machine}; a layer of {LAYER[0]} inputs and {LAYER[1]} outputs, {asked.threads} thread(s)\n")
        print(table(["computes in", "variant", "1 token", "8 tokens", "64 tokens"], layer()))
        return
    uri = asked.model if "://" in asked.model else Path(asked.model).resolve().as_uri()
    screens = open_screens(SCREENS)
    if asked.screens:
        screens = replace(screens, items=screens.items[: asked.screens])
    rows: list[list[str]] = []
    solved: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as cache:
        folder = locate(uri, Path(cache))
        for variant in VARIANTS:
            replier = Replier(folder)
            try:
                quantise_but(replier.model, variant, asked.keep)
            except EngineOptionsInvalid as error:
                rows.append([variant, str(error), "", "", ""])
                continue
            size = weight_bytes(replier.model)
            picture = screens.decoded(screens.items[0])
            first, rest = latencies(replier, picture, asked.short_side**2 * 2, asked.runs)
            found = [each.right for each in verdicts(replier, screens, [asked.short_side], lambda *_: None)]
            solved[variant] = found
            rows.append(_row(variant, size, first, rest, found, rows))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"{machine}; {asked.model}, short side {asked.short_side}, {asked.threads} thread(s), {asked.runs} runs")
    print(f"layers that stay: {asked.keep or 'none'}\n")
    print(table(["variant", "weights", "first token", "each further token", "right (95 % interval)"], rows))
    print("\n" + manifest(solved))


def manifest(solved: Mapping[str, Sequence[bool]]) -> str:
    """The lines of `spec.model` that say what each variant solves, ready to paste."""
    base = solved["none"]
    if not any(base):
        return f"The model itself solves none of the {len(base)} tasks: no variant has a quality, which is a share of that."
    lines = [f"quality: {_counts(base)}", "variants:"]
    for variant, found in solved.items():
        if variant != "none":
            lines += [f"  - name: {variant}", f"    quantization: {variant}", f"    quality: {_counts(found)}"]
    return "spec:\n  model:\n" + "\n".join(f"    {line}" for line in lines)


def _counts(found: Sequence[bool]) -> str:
    return f"{{right: {sum(found)}, samples: {len(found)}}}"


def _row(variant: str, size: int, first: float, rest: float, found: list[bool], rows: list[list[str]]) -> list[str]:
    share = wilson(sum(found), len(found))
    base = float(rows[0][1].split()[0]) if rows else size / 1e6
    return [
        variant,
        f"{size / 1e6:.2f} MB ({100 * (size / 1e6 / base - 1):+.0f} %)",
        f"{1000 * first:.0f} ms",
        f"{1000 * rest:.1f} ms",
        f"{sum(found)} of {len(found)} ({100 * share.low:.1f}-{100 * share.high:.1f} %)",
    ]


if __name__ == "__main__":
    main()
