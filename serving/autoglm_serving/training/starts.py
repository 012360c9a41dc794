"""How weights begin, so that what has to be learned is near: small networks learn in hours what chance would take days for."""

import math

import torch
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer
from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.cards import draw_card
from autoglm_serving.training.looking import start_looking
from autoglm_serving.training.spelling import reader, waves


def start(model: Glm4vForConditionalGeneration, images: ModelImages, tokenizer: ModelTokenizer) -> None:
    """Every start of this module, for a model with fresh weights."""
    start_positions(model)
    start_patches(model, images)
    start_merger(model)
    start_looking(model, tokenizer)


@torch.no_grad()
def start_positions(model: Glm4vForConditionalGeneration) -> None:
    """Let the learned position grid begin as sines and cosines of x and y: where a patch is, is known from the first step."""
    weight = model.model.visual.embeddings.position_embedding.weight
    side, width = math.isqrt(weight.shape[0]), weight.shape[1]
    grid = waves(side, side, width // 4)
    weight[:, : grid.shape[1]].copy_(grid)


@torch.no_grad()
def start_patches(model: Glm4vForConditionalGeneration, images: ModelImages) -> None:
    """Let the patch embedding begin as the turned principal components of patches of cards, each of the same size.

    The brightness of a patch varies a thousand times more than the strokes in it; a random start hides them behind it.
    """
    kernel = model.model.visual.patch_embed.proj
    cards = [draw_card(Dice("patches", number)).picture for number in range(_PATCH_CARDS)]
    frames, side = kernel.weight.shape[2], kernel.weight.shape[3]
    patches = torch.cat([images.pixels(card, ImageSize(1, 1 << 40))[0] for card in cards])
    patches = patches.view(len(patches), -1, frames, side, side)[:, :, 0].flatten(1).double()
    middle = patches.mean(0)
    spread, directions = torch.linalg.eigh((patches - middle).T @ (patches - middle) / len(patches))
    count = min(kernel.weight.shape[0], directions.shape[1])
    spread, directions = spread.flip(0)[:count], directions.flip(1)[:, :count]
    turned, _ = torch.linalg.qr(torch.randn(count, count, dtype=torch.double))
    start = turned @ (directions / (spread + _QUIET * spread[_LOUD]).sqrt()).T
    still = start.unflatten(1, (-1, 1, side, side)).expand(-1, -1, frames, -1, -1) / frames
    kernel.weight[:count].copy_(still)
    kernel.bias[:count].copy_(-(start @ middle))


_PATCH_CARDS = 64
_QUIET, _LOUD = 0.01, 10
"""Components that vary less than a hundredth of the tenth one are noise: they are not made as loud as the others."""


def start_merger(model: Glm4vForConditionalGeneration) -> None:
    """Let an image token begin as the sum of what its patches tell."""
    out, width = model.model.visual.downsample.weight.shape[:2]
    write_merger(model, reader(width, out), torch.zeros(out))


@torch.no_grad()
def write_merger(model: Glm4vForConditionalGeneration, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Let an image token be the sum of what `weight` [out, width] and `bias` [out] read in each of its patches.

    Every patch tells its part in the same directions. The merger's norm and GELU keep what is small beside a level that all
    numbers share, and its gate begins open: all of it together is nearly linear, and takes nothing away.
    """
    tower = model.model.visual
    kernel = tower.downsample.weight  # [out, width, side, side]
    out = len(kernel)
    kernel.copy_(weight[:, :, None, None].expand_as(kernel))
    tower.downsample.bias.copy_(bias * kernel.shape[2] * kernel.shape[3])
    merger = tower.merger
    merger.proj.weight.copy_(torch.eye(out))
    merger.post_projection_norm.weight.fill_(_SMALL)
    merger.post_projection_norm.bias.fill_(_LEVEL)
    for layer in (merger.gate_proj, merger.up_proj):
        layer.weight.normal_(0, 0.01)
    inner = min(out, merger.gate_proj.weight.shape[0])
    merger.gate_proj.weight[:inner] += _OPEN / (_LEVEL * out)
    merger.up_proj.weight[:inner] += (torch.eye(out) - 1 / out)[:inner]
    merger.down_proj.weight.normal_(0, 0.005)
    merger.down_proj.weight[:, :inner] += torch.eye(out)[:, :inner] * _USUAL / (_SMALL * _OPEN)


_SMALL, _LEVEL, _OPEN = 0.5, 1.5, 4.0
_USUAL = 0.16
"""Of each number of an image token's spelling and place: their length is about 2.6."""
