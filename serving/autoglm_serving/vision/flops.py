"""Floating-point operations of `glm4v`, counted from its shapes: a multiplication and an addition are two.

Counted is what matrices cost (linear layers, convolutions, attention); norms, activations and rotations, below one per cent
together, are not. Attention is counted causal, as a good kernel computes it: token i looks at i tokens. Kernels that compute
the whole square and mask half of it, and torch's own counter, correspond to `masked_square`.

Source: the architecture in transformers (`models/glm4v`), checked against torch's counter on a small model of it. The article
"Open-AutoGLM multi-resolution adaptation in practice", section 2.4, names the growth with the square of the sides; for the
vision tower's attention it is the fourth power.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoglm_serving.vision.sizing import TokenGrid


@dataclass(frozen=True)
class VisionShape:
    """The vision tower; names as in the model's config."""

    depth: int
    hidden: int
    out_hidden: int
    merger_width: int
    patch: int = 14
    frames: int = 2
    merge: int = 2
    channels: int = 3


@dataclass(frozen=True)
class TextShape:
    """The language model; names as in the model's config."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @property
    def head(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True)
class Architecture:
    """What the count depends on."""

    vision: VisionShape
    text: TextShape


AUTOGLM_PHONE_9B = Architecture(
    VisionShape(depth=24, hidden=1536, out_hidden=4096, merger_width=13696),
    TextShape(layers=40, hidden=4096, heads=32, kv_heads=2, intermediate=13696, vocabulary=151552),
)


def architecture(config: Mapping[str, Any]) -> Architecture:
    """From the content of a `config.json` of a glm4v model. Raises KeyError when a figure is missing."""
    vision, text = config["vision_config"], config["text_config"]
    return Architecture(
        VisionShape(
            depth=vision["depth"],
            hidden=vision["hidden_size"],
            out_hidden=vision["out_hidden_size"],
            merger_width=vision["intermediate_size"],
            patch=vision["patch_size"],
            frames=vision["temporal_patch_size"],
            merge=vision["spatial_merge_size"],
            channels=vision.get("in_channels", 3),
        ),
        TextShape(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            intermediate=text["intermediate_size"],
            vocabulary=text["vocab_size"],
        ),
    )


@dataclass(frozen=True)
class Flops:
    """Operations of one request, by part."""

    patch_embed: int = 0
    vision_linear: int = 0
    vision_attention: int = 0
    downsample: int = 0
    merger: int = 0
    text_linear: int = 0
    text_attention: int = 0
    lm_head: int = 0

    @property
    def vision(self) -> int:
        return self.patch_embed + self.vision_linear + self.vision_attention + self.downsample + self.merger

    @property
    def text(self) -> int:
        return self.text_linear + self.text_attention + self.lm_head

    @property
    def total(self) -> int:
        return self.vision + self.text

    def __add__(self, other: "Flops") -> "Flops":
        pairs = ((name, getattr(self, name) + getattr(other, name)) for name in self.__dataclass_fields__)
        return Flops(**dict(pairs))


def vision(shape: VisionShape, images: Sequence[TokenGrid]) -> Flops:
    """Read pictures: patch embedding, blocks (each picture attends to itself), downsampling, merger."""
    tokens = sum(image.tokens for image in images)
    patches = tokens * shape.merge**2
    squares = sum((image.tokens * shape.merge**2) ** 2 for image in images)
    pixels_of_patch = shape.channels * shape.frames * shape.patch**2
    block = 4 * shape.hidden**2 + 3 * shape.hidden * shape.out_hidden
    return Flops(
        patch_embed=2 * patches * pixels_of_patch * shape.hidden,
        vision_linear=2 * patches * shape.depth * block,
        vision_attention=4 * squares * shape.depth * shape.hidden,
        downsample=2 * tokens * shape.merge**2 * shape.hidden * shape.out_hidden,
        merger=2 * tokens * (shape.out_hidden**2 + 3 * shape.out_hidden * shape.merger_width),
    )


def prefill(shape: TextShape, tokens: int, cached: int = 0, logits: int = 1, masked_square: bool = False) -> Flops:
    """Read `tokens` tokens of text and pictures after `cached` known ones; logits for the last `logits` of them."""
    square = tokens * tokens if masked_square else tokens * (tokens + 1) // 2
    return Flops(
        text_linear=2 * tokens * shape.layers * _layer_weights(shape),
        text_attention=4 * (square + tokens * cached) * shape.layers * shape.heads * shape.head,
        lm_head=2 * logits * shape.hidden * shape.vocabulary,
    )


def decode(shape: TextShape, prompt: int, answer: int) -> Flops:
    """Write `answer` tokens after a prompt, one by one. The first comes from the prefill's own logits."""
    steps = max(0, answer - 1)
    looked_at = steps * prompt + steps * (steps + 1) // 2
    return Flops(
        text_linear=2 * steps * shape.layers * _layer_weights(shape),
        text_attention=4 * looked_at * shape.layers * shape.heads * shape.head,
        lm_head=2 * steps * shape.hidden * shape.vocabulary,
    )


def request(model: Architecture, images: Sequence[TokenGrid], text_tokens: int, answer_tokens: int = 1) -> Flops:
    """One whole request: pictures, prompt, answer. Nothing of it is cached."""
    prompt = text_tokens + sum(image.tokens for image in images)
    return vision(model.vision, images) + prefill(model.text, prompt) + decode(model.text, prompt, answer_tokens)


def _layer_weights(shape: TextShape) -> int:
    """Weights of one text layer that a token is multiplied with: q and o, k and v, gate and up and down."""
    attention = 2 * shape.hidden * shape.heads * shape.head + 2 * shape.hidden * shape.kv_heads * shape.head
    return attention + 3 * shape.hidden * shape.intermediate
