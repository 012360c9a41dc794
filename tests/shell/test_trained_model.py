"""The checkpoint that comes with the package loads, and taps what it is asked for far more often than by chance."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoglm_serving.model.locate import BUILTIN_GROUNDED, BUILTIN_TINY, locate
from autoglm_serving.training.dataset import open_screens
from autoglm_serving.training.evaluate import verdicts
from autoglm_serving.training.replies import Replier

pytestmark = pytest.mark.usefixtures("one_thread")

SCREENS = Path(__file__).parents[2] / "data/screens-test"
MOST_MB = 25
LEAST = 0.4
"""It was 0.51 when the checkpoint was made; with random weights it is 0."""


def right(uri: str, cache: Path, count: int) -> float:
    """The share of right taps on the first phone screens at 336 wide."""
    screens = open_screens(SCREENS)
    phones = [screen for screen in screens.items if screen.kind == "phone"][:count]
    replier = Replier(locate(uri, cache))
    found = [
        verdict
        for verdict in verdicts(replier, replace(screens, items=tuple(phones)), [336], lambda done, of: None)
        if verdict.type == "tap"
    ]
    assert len(found) > 5 * count
    return sum(verdict.right for verdict in found) / len(found)


def test_the_checkpoint_is_small_enough_to_come_with_the_package() -> None:
    folder = locate(BUILTIN_GROUNDED)
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_MB * 1e6


def test_the_checkpoint_tells_vllm_of_its_biases() -> None:
    """vLLM leaves out the biases of queries, keys and values unless the configuration names them, and taps elsewhere."""
    config = json.loads((locate(BUILTIN_GROUNDED) / "config.json").read_text(encoding="utf-8"))
    assert config["text_config"]["attention_bias"] is True


def test_the_checkpoint_taps_what_it_is_asked_for(tmp_path: Path) -> None:
    assert right(BUILTIN_GROUNDED, tmp_path, 6) >= LEAST


def test_random_weights_do_not(tmp_path: Path) -> None:
    assert right(BUILTIN_TINY, tmp_path, 1) < LEAST
