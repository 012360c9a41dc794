"""How the language model begins: with the way a question takes to its place, roughly, in its first three layers.

1. The words of a question gather how they are spelled, the near ones most.
2. They look at image tokens that are spelled so, and take the codes of their places.
3. The answer looks at the end of its question and takes over what that knows.
What is copied or compared is written into heads as plain directions; training makes it exact, and learns all the rest. From
chance alone a model of this size does not find such a way in hours.
"""

from typing import Any

import torch
from torch import nn
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.model.load import ModelTokenizer
from autoglm_serving.training.network import ROTATED
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.training.spelling import PLACE_WAVES, place_directions, spelling

_EMBEDDED = 0.5
"""The length of a word's spelling, of the same on a picture."""

_WORD = 1.5
"""All words share so long a direction, so that the norms in front of layers leave long words longer than short ones."""

_NEAR = (3, 4, 5, 6)
"""Pairs of a head that positions turn once in 35 to 200 tokens: together they are highest at the near ones."""

_SHARP = 4.0


@torch.no_grad()
def start_looking(model: Glm4vForConditionalGeneration, tokenizer: ModelTokenizer) -> None:
    """Write the start into the embeddings and the first layers of a model with fresh weights, where it has enough of them."""
    layers = model.model.language_model.layers
    for number, layer in enumerate(layers):
        attended, thought = _ADDED[min(number, len(_ADDED) - 1)] if len(layers) >= _LAYERS else _ADDED_BY_FEW
        layer.post_self_attn_layernorm.weight.fill_(attended)
        layer.post_mlp_layernorm.weight.fill_(thought)
    if len(layers) < _LAYERS:
        return
    config = model.config.text_config
    marks = _Marks(config.hidden_size)
    _embed(model.get_input_embeddings().weight, tokenizer, marks)
    attentions = [_Heads(layer.self_attn) for layer in layers]
    _gather(attentions[0], marks)
    _look(attentions[1], marks)
    _take_over(attentions[2], marks)


_LAYERS = 3
"""A model of fewer has no room for it, and learns better without a part of it."""

_ADDED_BY_FEW = (0.15, 0.15)
_ADDED = ((0.15, 0.02), (0.2, 0.02), (0.15, 0.1), (0.1, 0.15))
"""GLM-4 norms what attention and MLP add: by layer, how loud. At their usual start they would drown spellings and places."""


class _Marks:
    """Directions that tell kinds of tokens apart. Spellings are at right angles to those of places, some of which mark tokens.

    Codes of places have little in the fastest waves of y: those mark the first token, the end of a question, and all words.
    The slowest waves are positive everywhere on a picture, and words have nothing there.
    """

    def __init__(self, width: int) -> None:
        self.places = place_directions(width)
        self.first, self.end, self.word = self.places[-1], self.places[-2], self.places[-3]
        self.picture = self.places[[0, PLACE_WAVES, 2 * PLACE_WAVES, 3 * PLACE_WAVES]].sum(0) / 2
        drawn = torch.randn(width, width - len(self.places), generator=torch.Generator().manual_seed(5))
        self.spellings = torch.linalg.qr(torch.cat([self.places.T, drawn], 1))[0][:, len(self.places) :].T.contiguous()
        """[width - places, width]: the directions that spellings use."""


class _Heads:
    """An attention's weights by head. `free` are the rows of a head that positions do not turn, without the last two: flags."""

    def __init__(self, attention: Any) -> None:
        self.count, self.size = int(attention.num_heads), int(attention.head_dim)
        self.query: nn.Linear = attention.q_proj
        self.key: nn.Linear = attention.k_proj
        self.value: nn.Linear = attention.v_proj
        self.out: nn.Linear = attention.o_proj
        self.free = self.size - ROTATED - 2
        for each in (self.query, self.key, self.value):
            each.bias.zero_()

    def quiet(self, head: int) -> None:
        """Let a head compare nothing and say nothing."""
        rows = slice(head * self.size, (head + 1) * self.size)
        for each in (self.query, self.key):
            each.weight[rows].normal_(0, 0.005)
        self.value.weight[rows] = 0
        self.out.weight[:, rows] = 0

    def copies(self, head: int, directions: torch.Tensor, loud: float = 1.0) -> None:
        """Let a head hand on what lies in these directions, as it is."""
        rows = slice(head * self.size, head * self.size + len(directions))
        self.value.weight[rows] = directions
        self.out.weight[:, rows] = directions.T * loud

    def flag(self, head: int, number: int) -> int:
        """The row of one of a head's two flags."""
        return (head + 1) * self.size - 1 - number

    def rests_on_first(self, head: int, marks: _Marks) -> None:
        """Let image tokens look at the first token, which has nothing to say: they stay as they are."""
        row = self.flag(head, 1)
        self.query.weight[row] = marks.picture * 10
        self.key.weight[row] = marks.first * 2


def _embed(embeddings: torch.Tensor, tokenizer: ModelTokenizer, marks: _Marks) -> None:
    width = embeddings.shape[1]
    within = marks.spellings.T @ marks.spellings
    embeddings.copy_(torch.randn_like(embeddings) * 0.06 @ within)
    for index, content in tokenizer.pieces.items():
        if index < len(embeddings):
            text = content.decode(errors="ignore").strip()
            spelled = _EMBEDDED * spelling(text, width) if text else torch.zeros(width)
            embeddings[index] = spelled + _WORD * marks.word
    prompts = Prompts(tokenizer)
    embeddings[prompts.before(0)[0]] = 2 * marks.first
    embeddings[prompts.answer_id] = _WORD * marks.word + 2 * marks.end


def _gather(heads: _Heads, marks: _Marks) -> None:
    parts = marks.spellings.chunk(heads.count)
    for head in range(heads.count):
        heads.quiet(head)
        heads.rests_on_first(head, marks)
        row = heads.flag(head, 0)
        heads.query.bias[row] = 14
        heads.key.weight[row] = -6 * marks.picture
        for pair in _NEAR:
            heads.query.bias[head * heads.size + 2 * pair] = 4
            heads.key.bias[head * heads.size + 2 * pair] = 4
        heads.copies(head, parts[head])


def _look(heads: _Heads, marks: _Marks) -> None:
    each = min(heads.free, len(marks.spellings) // heads.count)
    turned = torch.linalg.qr(torch.randn(len(marks.spellings), len(marks.spellings)))[0]
    for head in range(heads.count):
        heads.quiet(head)
        heads.rests_on_first(head, marks)
        compared = turned[each * head : each * (head + 1)] @ marks.spellings * _SHARP
        rows = slice(head * heads.size + ROTATED, head * heads.size + ROTATED + each)
        heads.query.weight[rows] = compared
        heads.key.weight[rows] = compared
        row = heads.flag(head, 0)
        heads.query.bias[row] = 20
        heads.key.weight[row] = -12 * marks.word - 2 * marks.first
        heads.copies(head, marks.places[: heads.size][:-1], loud=0.5)


def _take_over(heads: _Heads, marks: _Marks) -> None:
    heads.quiet(0)
    row = heads.flag(0, 1)
    heads.query.bias[row] = 12
    heads.key.weight[row] = marks.end * 4
    heads.copies(0, marks.places[: heads.size], loud=0.5)
    heads.out.weight[:, heads.size :] *= 0.3
