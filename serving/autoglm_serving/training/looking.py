"""How the language model begins: with the way a question takes to its place, roughly, in its first three layers.

1. Image tokens gather what their neighbours in the row show, the words of a question how they are spelled. Words that frame
   an instruction ("Tap the ... icon") begin without a spelling.
2. The end of a question looks at image tokens that are spelled so, and takes the codes of their places.
3. The answer looks at the end of its question and takes over what that knows.
What is copied or compared is written into heads as plain directions; training makes it exact, and learns all the rest. From
chance alone a model of this size does not find such a way in hours.
"""

import re
from typing import Any

import torch
from torch import nn
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.model.load import ModelTokenizer
from autoglm_serving.screens.tasks import instruction_frames
from autoglm_serving.training.gaze import LOOKING_LAYER
from autoglm_serving.training.network import ROTATED
from autoglm_serving.training.prompts import Prompts
from autoglm_serving.training.spelling import (
    PLACE_WAVES,
    free_directions,
    letter_directions,
    place_directions,
    spelling,
)

_EMBEDDED, _FRAMING = 0.5, 0.02
"""How loud a word's spelling is, of what it is on a picture; and that of a word which frames an instruction."""

_SPREAD = 0.03
"""Of what tells words apart beside their spelling, in directions that nothing else uses."""

_WORD = 1.5
"""All words share so long a direction, so that the norms in front of layers leave long words longer than short ones."""

_NEAR = (6, 8, 10, 12)
"""Pairs of a head that positions turn once in 35 to 200 tokens: together they are highest at the near ones."""

_BESIDE = 21.0
"""Of all pairs for rows and columns. Those for rows turn faster: a token five to the left is nearer than the one above."""

_SHARP = 1.5


@torch.no_grad()
def start_looking(model: Glm4vForConditionalGeneration, tokenizer: ModelTokenizer) -> None:
    """Write the start into the embeddings and the first layers of a model with fresh weights, where it has room for it."""
    layers = model.model.language_model.layers
    for number, layer in enumerate(layers):
        attended, thought = _ADDED[min(number, len(_ADDED) - 1)] if len(layers) >= _LAYERS else _ADDED_BY_FEW
        layer.post_self_attn_layernorm.weight.fill_(attended)
        layer.post_mlp_layernorm.weight.fill_(thought)
    if not has_room(model):
        return
    marks = _Marks(model.config.text_config.hidden_size)
    _embed(model.get_input_embeddings().weight, tokenizer, marks, None)
    attentions = [_Heads(layer.self_attn) for layer in layers]
    _gather(attentions[LOOKING_LAYER - 1], marks)
    _look(attentions[LOOKING_LAYER], marks)
    _take_over(attentions[LOOKING_LAYER + 1], marks)


def has_room(model: Glm4vForConditionalGeneration) -> bool:
    """Whether a model has the layers and the directions that the way needs."""
    enough = len(free_directions(model.config.text_config.hidden_size)) > _MARKS
    return enough and len(model.model.language_model.layers) >= _LAYERS


@torch.no_grad()
def spell_words(model: Glm4vForConditionalGeneration, tokenizer: ModelTokenizer, codes: torch.Tensor) -> None:
    """Let the embeddings of words begin anew, spelled with other codes of SIGNS. Nothing where there is no room for the way."""
    if has_room(model):
        marks = _Marks(model.config.text_config.hidden_size)
        _embed(model.get_input_embeddings().weight, tokenizer, marks, codes.cpu())


@torch.no_grad()
def keep_to_words(text_model: Any, first: int) -> list[tuple[torch.Tensor, list[int]]]:
    """Let every head of the layers from `first` on prefer words to image tokens; the rows that say so, to be held fixed.

    What a picture shows has arrived at the ends of questions by then.
    """
    marks = _Marks(text_model.config.hidden_size)
    fixed: list[tuple[torch.Tensor, list[int]]] = []
    for layer in text_model.layers[first:]:
        attention = layer.self_attn
        size = int(attention.head_dim)
        rows = [(head + 1) * size - 1 for head in range(int(attention.num_heads))]
        for weight, content in (
            (attention.q_proj.weight, 0.0),
            (attention.q_proj.bias, _PREFERS),
            (attention.k_proj.weight, _WORDS * marks.word),
            (attention.k_proj.bias, 0.0),
        ):
            weight[rows] = content
            fixed.append((weight, rows))
    return fixed


_PREFERS, _WORDS = 10.0, 3.2

_LAYERS = LOOKING_LAYER + 2
"""A model of fewer has no room for it, and learns better without a part of it."""

_ADDED_BY_FEW = (0.15, 0.15)
_ADDED = ((0.15, 0.02), (0.2, 0.02), (0.15, 0.1), (0.1, 0.15))
"""GLM-4 norms what attention and MLP add: by layer, how loud. At their usual start they would drown spellings and places."""

_MARKS = 3


class _Marks:
    """Directions that tell kinds of tokens apart, where neither letters nor places have theirs: image tokens have none of them.

    The slowest waves of places are positive everywhere on a picture, and words have nothing there.
    """

    def __init__(self, width: int) -> None:
        self.places, self.letters = place_directions(width), letter_directions(width)
        free = free_directions(width)
        self.word, self.first, self.end = free[:_MARKS]
        self.others = free[_MARKS:]
        self.picture = self.places[[0, PLACE_WAVES, 2 * PLACE_WAVES, 3 * PLACE_WAVES]].sum(0) / 2


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
            each.weight[rows].normal_(0, 0.003)
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

    def near(self, head: int, pair: int, loud: float) -> None:
        """Let a pair that positions turn say how near another token is."""
        self.query.bias[head * self.size + 2 * pair] = loud
        self.key.bias[head * self.size + 2 * pair] = loud

    def rests_on_first(self, head: int, marks: _Marks, loud: float) -> None:
        """Let image tokens look at the first token, which has nothing to say: they stay as they are."""
        row = self.flag(head, 1)
        self.query.weight[row] = marks.picture * loud
        self.key.weight[row] = marks.first * loud * 0.8


def _embed(weight: torch.Tensor, tokenizer: ModelTokenizer, marks: _Marks, codes: torch.Tensor | None) -> None:
    width = weight.shape[1]
    # Made on the CPU, where the directions are.
    embeddings = torch.randn(weight.shape) * _SPREAD @ marks.others.T @ marks.others
    prompts = Prompts(tokenizer)
    framing = _framing(tokenizer, prompts)
    for index, content in tokenizer.pieces.items():
        if index < len(embeddings):
            loud = _FRAMING if index in framing else _EMBEDDED
            embeddings[index] += loud * spelling(content.decode(errors="ignore"), width, codes) + _WORD * marks.word
    embeddings[prompts.before(0)[0]] = 2 * marks.first
    embeddings[prompts.answer_id] = _WORD * marks.word + 2 * marks.end
    weight.copy_(embeddings)


def _framing(tokenizer: ModelTokenizer, prompts: Prompts) -> set[int]:
    """The tokens of the prompt, and of all instructions around what they name."""
    found = set(prompts.before(0))
    for frame in instruction_frames():
        for name in ("", _NAME):
            found.update(prompts.after(re.sub(r"\{\w*\}", name, frame)))
    return found.difference(tokenizer.encode(_NAME))


_NAME = "Xq"
"""A name that no instruction's words contain."""


def _gather(heads: _Heads, marks: _Marks) -> None:
    """The first head is that of image tokens, the others are those of words."""
    pairs = ROTATED // 2
    for head in range(heads.count):
        heads.quiet(head)
        row = heads.flag(head, 0)
        if head == 0:
            for pair in range(pairs // 4, pairs):  # the first quarter turns with time, which stands still in a picture
                heads.near(head, pair, _BESIDE)
            heads.query.weight[row] = marks.picture * 1.2
            heads.key.weight[row] = -6 * (marks.word + marks.first)
        else:
            for pair in _NEAR:
                heads.near(head, pair, 4)
            heads.rests_on_first(head, marks, 5.5)
            heads.query.bias[row] = 14
            heads.key.weight[row] = -6 * marks.picture
        heads.copies(head, marks.letters[: heads.size])


def _look(heads: _Heads, marks: _Marks) -> None:
    compared = marks.letters[: heads.free] * _SHARP
    for head in range(heads.count):
        heads.quiet(head)
        heads.rests_on_first(head, marks, 10)
        rows = slice(head * heads.size + ROTATED, head * heads.size + ROTATED + len(compared))
        heads.query.weight[rows] = compared
        heads.key.weight[rows] = compared
        row = heads.flag(head, 0)
        heads.query.bias[row] = 20
        heads.key.weight[row] = -6 * marks.word - 2 * marks.first
        heads.copies(head, marks.places[: heads.size], loud=0.5)


def _take_over(heads: _Heads, marks: _Marks) -> None:
    heads.quiet(0)
    row = heads.flag(0, 1)
    heads.query.bias[row] = 12
    heads.key.weight[row] = marks.end * 4
    heads.copies(0, marks.places[: heads.size], loud=0.5)
    heads.out.weight[:, heads.size :] *= 0.3
