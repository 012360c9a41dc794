"""How weights begin, so that what has to be learned is near: small networks learn in hours what chance would take days for."""

import math

import torch
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer
from autoglm_serving.screens.dice import Dice
from autoglm_serving.training.cards import draw_card
from autoglm_serving.training.spelling import PLACE_WAVES, place_directions, start_embeddings, waves


def start(model: Glm4vForConditionalGeneration, images: ModelImages, tokenizer: ModelTokenizer) -> None:
    """Every start of this module, for a model with fresh weights."""
    start_positions(model)
    start_patches(model, images)
    start_merger(model)
    start_embeddings(model.get_input_embeddings().weight, tokenizer.pieces)
    start_looking(model)


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


@torch.no_grad()
def start_merger(model: Glm4vForConditionalGeneration) -> None:
    """Let an image token begin with the sum of its patches, and with the sums of each column of them.

    Else every patch's way into the image token is learned alone, from a sixteenth of the letters.
    """
    tower = model.model.visual
    kernel = tower.downsample.weight  # [out, width, side, side]
    out, width, side = kernel.shape[:3]
    kernel.normal_(0, 0.01)
    whole = min(width, out)
    kernel[:whole] += torch.eye(out, width)[:whole, :, None, None] / side
    of_each = (out - whole) // side
    for column in range(side):
        first = whole + column * of_each
        kernel[first : first + of_each, :, :, column] += torch.randn(of_each, width, 1) * 0.8 / math.sqrt(width)
    tower.downsample.bias.zero_()
    merger = tower.merger
    merger.proj.weight.normal_(0, 0.02)
    merger.proj.weight += torch.eye(out)
    for layer in (merger.gate_proj, merger.up_proj):
        layer.weight.normal_(0, 1 / math.sqrt(out))
    merger.down_proj.weight.normal_(0, 0.06)


@torch.no_grad()
def start_looking(model: Glm4vForConditionalGeneration) -> None:
    """Let the first layer's words look at the image tokens that are spelled as they are, and take their places.

    GLM-4's layers norm what they add: at their usual start they would drown spellings and places, which are short.
    """
    for layer in model.model.language_model.layers:
        layer.post_self_attn_layernorm.weight.fill_(_ADDED)
        layer.post_mlp_layernorm.weight.fill_(_ADDED)
    config = model.config.text_config
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    looking = range(config.num_attention_heads // config.num_key_value_heads)  # the heads of the first keys
    first, last = head - head // 2, head - 1  # of the dimensions that positions do not turn; the last one is the flag
    attention = model.model.language_model.layers[0].self_attn
    spelled = torch.linalg.qr(torch.randn(width, last - first))[0].T * _SHARP
    directions = place_directions(width)
    # The slowest waves are positive everywhere on a picture, and in no word: they tell image tokens from text.
    on_a_picture = directions[[0, PLACE_WAVES, 2 * PLACE_WAVES, 3 * PLACE_WAVES]].sum(0) / 2
    for query in looking:
        rows = slice(query * head, (query + 1) * head)
        attention.q_proj.weight[rows][:first] *= 0.1
        attention.q_proj.weight[rows][first:last] = spelled
        attention.q_proj.weight[rows][last] = 0
        attention.q_proj.bias[rows] = 0
        attention.q_proj.bias[query * head + last] = _TO_PICTURES
        attention.o_proj.weight[:, rows] = directions[:head].T * 0.1
    attention.k_proj.weight[:first] *= 0.1
    attention.k_proj.weight[first:last] = spelled
    attention.k_proj.weight[last] = 4 * on_a_picture
    attention.k_proj.bias[:head] = 0
    attention.v_proj.weight[:head] = directions[:head]


_ADDED, _SHARP, _TO_PICTURES = 0.15, 1.9, 8.0
