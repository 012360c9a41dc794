"""Copies of a model that learn side by side on a real Ray cluster learn what one learns alone from as many batches."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from autoglm_serving.training.commands import train
from autoglm_serving.training.dataset import open_screens
from autoglm_serving.training.recipe import PRESETS
from autoglm_serving.training.replicas import followed
from autoglm_serving.training.trainer import Machine
from autoglm_serving.training.trainer import train as train_alone
from support.training import lines_of

pytestmark = pytest.mark.usefixtures("one_thread")

SMOKE = PRESETS["smoke"]
COPIES = 2


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a whole run of two copies."""
    out: Path = tmp_path_factory.mktemp("together") / "out"
    how = ["--smoke", "--threads", "1", "--replicas", str(COPIES)]
    result = CliRunner().invoke(train, ["tiny", str(data), str(out), *how])
    assert result.exit_code == 0, result.output
    assert f"{SMOKE.steps} of {SMOKE.steps} steps" in result.output, "what the first copy writes is told"
    return out


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one model that learns from as many batches in each step."""
    out: Path = tmp_path_factory.mktemp("alone") / "out"
    recipe = replace(SMOKE, accumulate=COPIES)
    train_alone(recipe, open_screens(data, side=640), out, Machine(threads=1), False, lambda _: None)
    return out


def paired(together: Path, alone: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return zip(lines_of(together), lines_of(alone), strict=True)


def test_each_step_learns_from_the_batches_of_all_copies(together: Path, alone: Path) -> None:
    for both, one in paired(together, alone):
        for name in ("step", "stage", "short_side", "rate", "pictures", "questions", "image_tokens"):
            assert both[name] == one[name], name
    assert max(line["pictures"] for line in lines_of(together)) > SMOKE.batch_limit


def test_what_is_learned_is_what_one_model_learns_alone(together: Path, alone: Path) -> None:
    """Sums of gradients round differently, and every step makes more of it."""
    for both, one in paired(together, alone):
        near = 1e-3 if one["step"] < 4 else 0.05
        assert both["loss"] == pytest.approx(one["loss"], rel=near, abs=near)
        assert both["norm"] == pytest.approx(one["norm"], rel=4 * near, abs=4 * near)
    weights, others = (load_file(out / "model/model.safetensors") for out in (together, alone))
    assert weights.keys() == others.keys()
    apart = sum(float((weights[name] - others[name]).square().sum()) for name in weights)
    assert apart < 1e-3 * sum(float(each.square().sum()) for each in others.values())


def test_a_run_of_copies_leaves_what_a_run_alone_leaves(together: Path, alone: Path) -> None:
    names = {path.name for path in together.iterdir()} - {"ray"}
    assert names == {path.name for path in alone.iterdir()}
    assert (together / "recipe.json").read_text() == (alone / "recipe.json").read_text()


def test_a_run_of_copies_goes_on_from_its_checkpoint(together: Path, data: Path, alone: Path) -> None:
    """The last checkpoint is gone, as after a kill before it: the last step comes again, and nothing else."""
    before = lines_of(together)
    state = max((together / "checkpoints").iterdir())
    (state / "state.pt").unlink()
    how = ["--smoke", "--threads", "1", "--replicas", str(COPIES), "--resume"]
    result = CliRunner().invoke(train, ["tiny", str(data), str(together), *how])
    assert result.exit_code == 0, result.output
    after = lines_of(together)
    kept = int(before[-1]["step"])
    assert after[:kept] == before[:kept]
    assert after[kept]["loss"] == pytest.approx(before[kept]["loss"], rel=1e-3, abs=1e-3)


def test_another_number_of_copies_is_another_recipe(together: Path, data: Path) -> None:
    before = lines_of(together)
    result = CliRunner().invoke(
        train, ["tiny", str(data), str(together), "--smoke", "--replicas", "3", "--resume", "--threads", "1"]
    )
    assert result.exit_code == 1
    assert "another recipe" in result.output
    assert lines_of(together) == before


@pytest.mark.parametrize("how", [["--ray", "127.0.0.1:1"], ["--gpu"]])
def test_where_copies_learn_needs_copies(data: Path, tmp_path: Path, how: list[str]) -> None:
    result = CliRunner().invoke(train, ["tiny", str(data), str(tmp_path / "out"), "--smoke", *how])
    assert result.exit_code == 2
    assert "--replicas" in result.output


def test_no_cluster_at_an_address_is_said(data: Path, tmp_path: Path) -> None:
    how = ["--smoke", "--replicas", "2", "--ray", "127.0.0.1:1", "--threads", "1"]
    result = CliRunner().invoke(train, ["tiny", str(data), str(tmp_path / "out"), *how])
    assert result.exit_code == 1
    assert "no Ray cluster at 127.0.0.1:1" in result.output
    assert not (tmp_path / "out").exists(), "the same command shall do once there is one"


def test_more_than_a_cluster_has_is_refused_at_once(data: Path, tmp_path: Path) -> None:
    """Ray Train would ask for it again and again."""
    how = ["--smoke", "--replicas", "1", "--gpu", "--threads", "1"]
    with patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}):
        result = CliRunner().invoke(train, ["tiny", str(data), str(tmp_path / "out"), *how])
    assert result.exit_code == 1
    assert "the copies need 1 GPU together, and the cluster has 0" in result.output
    assert not (tmp_path / "out").exists()


def test_a_log_that_is_cut_back_is_told_from_its_new_end(tmp_path: Path) -> None:
    log, told = tmp_path / "log.jsonl", list[int]()
    log.write_text("".join(f'{{"step": {step}}}\n' for step in range(20)))
    with followed(log, 30, lambda progress: told.append(progress.step)):
        log.write_text("".join(f'{{"step": {step}}}\n' for step in range(10)))
        time.sleep(1.5)
        with log.open("a") as lines:
            lines.write('{"step": 10}\n{"step": 11}\n{"st')
            lines.flush()
            time.sleep(1.5)
            lines.write('ep": 12}\n')
    assert told == [11, 12, 13]
