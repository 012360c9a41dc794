"""Batches made ahead of the step that learns from them, by a thread or by processes."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import multiprocessing

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer
from autoglm_serving.training.batches import Batch, BatchMaker
from autoglm_serving.training.dataset import Screens
from autoglm_serving.training.recipe import Recipe, Step, plan_step
from autoglm_serving.training.world import ALONE, World


@dataclass(frozen=True)
class Ingredients:
    """What a maker of batches is made of; `folder` is the model's, for its tokenizer and its image processor."""

    recipe: Recipe
    screens: Screens
    folder: Path
    world: World = ALONE

    def maker(self) -> BatchMaker:
        """A maker of its own for each process."""
        folder = check_folder(self.folder)
        return BatchMaker(self.recipe, self.screens, ModelTokenizer(folder), ModelImages(folder))


Made = tuple[Step, dict[int, Batch]]
"""A step, and by number those of its batches that a copy of the model learns from."""


@contextmanager
def ahead(ingredients: Ingredients, workers: int) -> Iterator[Callable[[int], Future[Made]]]:
    """What begins to make the batches of a step: in one thread with 0 workers, else in so many processes."""
    if workers == 0:
        maker = ingredients.maker()
        with ThreadPoolExecutor(1, "batches") as thread:
            yield lambda number: thread.submit(made, maker, ingredients.recipe, number, ingredients.world)
        return
    screens = replace(ingredients.screens, cache_bytes=ingredients.screens.cache_bytes // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (replace(ingredients, screens=screens),)) as processes:
        yield lambda number: processes.submit(_make_here, ingredients.recipe, number, ingredients.world)


def made(maker: BatchMaker, recipe: Recipe, number: int, world: World) -> Made:
    """One copy's share of the batches of one step."""
    step = plan_step(recipe, number)
    share = world.share(recipe.accumulate) if step.stage.shared else range(recipe.accumulate)
    return step, {part: maker.batch(step, part) for part in share}


_here: list[BatchMaker] = []
"""The maker of this worker process."""


def _begin(ingredients: Ingredients) -> None:
    torch.set_num_threads(1)
    # Who sends tensors chooses how. The other strategy keeps a file open for every one of them.
    multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    _here.append(ingredients.maker())


def _make_here(recipe: Recipe, number: int, world: World) -> Made:
    return made(_here[0], recipe, number, world)
