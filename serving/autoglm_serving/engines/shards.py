"""Which weights of a `glm4v` model are cut over the ranks of a gang, and how. Pure: sizes in, cuts out.

A layer pair is cut so that one sum joins it again: the first matrix by its outputs, the second by its inputs. Attention is
cut by heads; where heads do not divide, every rank computes all of it, which is exact and costs memory. A feed-forward
layer that does not divide is refused, because nothing would be left to gain. The head and the embedding are cut by words.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoglm_serving.engines.interface import EngineOptionsInvalid

Join = Literal["none", "sum", "gather", "lookup"]
"""How the ranks' outputs of a layer become one: not at all, added, put side by side, or the one rank that has the row."""

FIELD = "spec.engine.parallelism.tensor"
_SIZES = (1, 2, 4, 8)
"""What the field takes."""


@dataclass(frozen=True)
class Cut:
    """One layer's cut: along the weight's outputs (axis 0) or inputs (axis 1).

    `parts`: matrices that lie in one weight one below the other, such as query, key and value. Each is cut by itself.
    """

    axis: Literal[0, 1]
    join: Join = "none"
    parts: int = 1

    def pieces(self, length: int, rank: int, ranks: int) -> tuple[slice, ...]:
        """What of an axis of `length` belongs to a rank, in order."""
        part = length // self.parts
        share = part // ranks
        if share * ranks * self.parts != length:
            raise ValueError(f"{length} does not divide by {ranks} ranks and {self.parts} parts")
        starts = (number * part + rank * share for number in range(self.parts))
        return tuple(slice(start, start + share) for start in starts)


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a `glm4v` model that a cut depends on."""

    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    vision_heads: int
    vision_intermediate: int
    merger_intermediate: int

    @staticmethod
    def read(config: Mapping[str, Any]) -> "ModelSizes":
        """From config.json, whole; a size that it leaves out is that of GLM-4.1V, as transformers fills it in."""
        text, vision = config["text_config"], config["vision_config"]
        heads = int(text.get("num_attention_heads", 32))
        return ModelSizes(
            heads=heads,
            key_value_heads=int(text.get("num_key_value_heads", 2) or heads),
            intermediate=int(text.get("intermediate_size", 13696)),
            vocabulary=int(text.get("vocab_size", 151552)),
            vision_heads=int(vision.get("num_heads", 12)),
            vision_intermediate=int(vision.get("out_hidden_size", 4096)),
            merger_intermediate=int(vision.get("intermediate_size", 13696)),
        )


@dataclass(frozen=True)
class ShardPlan:
    """The cuts of one model for a number of ranks. `whole` says what every rank holds in full, and why."""

    ranks: int
    cuts: tuple[tuple[re.Pattern[str], Cut], ...]
    key_value_heads: int
    """Of one rank."""
    vision_heads: int
    """Of one rank."""
    whole: tuple[str, ...]

    def cut_of(self, module: str) -> Cut | None:
        """The cut of a module by its name in the model or in a file of weights; None: every rank holds it in full."""
        return next((cut for pattern, cut in self.cuts if pattern.search(module)), None)


def shard_plan(sizes: ModelSizes, ranks: int) -> ShardPlan:
    """Raises EngineOptionsInvalid, with the field and what to set, when a feed-forward layer does not divide."""
    _check(sizes, ranks)
    text = sizes.heads % ranks == 0 and sizes.key_value_heads % ranks == 0
    vision = sizes.vision_heads % ranks == 0
    words = sizes.vocabulary % ranks == 0
    cuts = [*_FEED_FORWARD, *(_ATTENTION * text), *(_VISION_ATTENTION * vision), *(_WORDS * words)]
    whole = [
        f"attention of the language model ({sizes.heads} heads, {sizes.key_value_heads} of keys and values)"
        * (not text),
        f"attention of the vision tower ({sizes.vision_heads} heads)" * (not vision),
        f"embedding and head ({sizes.vocabulary} words)" * (not words),
    ]
    return ShardPlan(
        ranks=ranks,
        cuts=tuple((re.compile(rf"(?:^|\.){pattern}$"), cut) for pattern, cut in cuts),
        key_value_heads=sizes.key_value_heads // (ranks if text else 1),
        vision_heads=sizes.vision_heads // (ranks if vision else 1),
        whole=tuple(f"{what} does not divide by {ranks}" for what in whole if what),
    )


def check_text(sizes: ModelSizes, ranks: int) -> None:
    """For an engine that cuts the language model whatever its sizes, as vLLM does.

    Where there are more ranks than heads of keys and values, several ranks hold the same head. Raises EngineOptionsInvalid,
    with the field and what to set, when heads or the feed-forward width do not divide.
    """
    if not _text_divides(sizes, ranks):
        what = (
            f"{sizes.heads} heads, {sizes.key_value_heads} heads of keys and values and "
            f"intermediate_size ({sizes.intermediate})"
        )
        raise _refusal(ranks, what, lambda size: _text_divides(sizes, size))


def _text_divides(sizes: ModelSizes, ranks: int) -> bool:
    shared = sizes.key_value_heads % ranks == 0 or ranks % sizes.key_value_heads == 0
    return shared and sizes.heads % ranks == 0 and sizes.intermediate % ranks == 0


def tower_divides(sizes: ModelSizes, ranks: int) -> bool:
    """Whether every part of the vision tower and its merger can be cut."""
    parts = (sizes.vision_heads, sizes.vision_intermediate, sizes.merger_intermediate)
    return not any(part % ranks for part in parts)


def _check(sizes: ModelSizes, ranks: int) -> None:
    widths = {
        "intermediate_size of the language model": sizes.intermediate,
        "out_hidden_size of the vision tower": sizes.vision_intermediate,
        "intermediate_size of the vision tower": sizes.merger_intermediate,
    }
    odd = [f"{name} ({width})" for name, width in widths.items() if width % ranks]
    if odd:
        raise _refusal(ranks, " and ".join(odd), lambda size: not any(width % size for width in widths.values()))


def _refusal(ranks: int, what: str, divides: Callable[[int], bool]) -> EngineOptionsInvalid:
    fits = ", ".join(str(size) for size in _SIZES if divides(size))
    return EngineOptionsInvalid(f"{FIELD} {ranks} does not divide the model's {what}: set it to one of {fits}")


_BY_OUTPUT, _BY_INPUT = Cut(0), Cut(1, "sum")
_Rule = tuple[str, Cut]
_FEED_FORWARD: tuple[_Rule, ...] = (
    (r"layers\.\d+\.mlp\.gate_up_proj", Cut(0, parts=2)),
    (r"layers\.\d+\.mlp\.down_proj", _BY_INPUT),
    (r"blocks\.\d+\.mlp\.(?:gate|up)_proj", _BY_OUTPUT),
    (r"blocks\.\d+\.mlp\.down_proj", _BY_INPUT),
    (r"merger\.(?:gate|up)_proj", _BY_OUTPUT),
    (r"merger\.down_proj", _BY_INPUT),
)
_ATTENTION: tuple[_Rule, ...] = (
    (r"layers\.\d+\.self_attn\.[qkv]_proj", _BY_OUTPUT),
    (r"layers\.\d+\.self_attn\.o_proj", _BY_INPUT),
)
_VISION_ATTENTION: tuple[_Rule, ...] = (
    (r"blocks\.\d+\.attn\.qkv", Cut(0, parts=3)),
    (r"blocks\.\d+\.attn\.proj", _BY_INPUT),
)
_WORDS: tuple[_Rule, ...] = ((r"embed_tokens", Cut(0, "lookup")), (r"lm_head", Cut(0, "gather")))
