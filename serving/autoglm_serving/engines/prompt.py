"""From messages to the tokens of a prompt: the same for every engine.

Each message becomes one string, as with vLLM's `--chat-template-content-format string`, which the vendor prescribes: the
placeholders of its images first, then its texts, one per line.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from autoglm_serving.engines.interface import (
    EncodedPicture,
    GenerateRequest,
    GenerationFailed,
    ImagePart,
    Message,
    PromptRefused,
    PromptTooLong,
    TextPart,
)
from autoglm_serving.model.load import ImageSize
from autoglm_serving.vision.cache import key

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

IMAGE_PLACEHOLDER = "<|begin_of_image|><|image|><|end_of_image|>"

# A control token inside a client's text travels through the template as a number between two private-use characters.
_GUARDED = re.compile("\ue000(\\d{1,4})\ue001")


class PromptTokenizer(Protocol):
    """What prompt building needs of a tokenizer (model.load.ModelTokenizer)."""

    @property
    def specials(self) -> tuple[str, ...]:
        """Control tokens that a client's text must not be able to write."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template's output."""

    def encode(self, text: str, literal: bool = False) -> list[int]:
        """Ids; with `literal`, control tokens are spelled out."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that fits. `token_ids` holds one image token per image; image i takes `image_tokens[i]` of them.

    `image_names` name each image as the model sees it (tenant, content, grid): equal names, equal features. `pixels` are
    there, by the image's number, when an engine has prepared them ahead. They are the one part that changes: they are large,
    and whoever has read the whole prompt empties them for all who hold it.
    """

    token_ids: tuple[int, ...]
    images: "tuple[Image | EncodedPicture, ...]"
    image_size: ImageSize
    image_tokens: tuple[int, ...]
    image_token_id: int
    max_new_tokens: int
    tenant: str = ""
    image_names: tuple[str, ...] = ()
    pixels: "dict[int, torch.Tensor]" = field(default_factory=dict, compare=False)

    @property
    def length(self) -> int:
        """Tokens of the prompt as the model sees it."""
        return len(self.token_ids) - len(self.images) + sum(self.image_tokens)

    def expanded(self) -> list[int]:
        """The ids with every image token repeated as often as its image has tokens."""
        counts = iter(self.image_tokens)
        ids: list[int] = []
        for index in self.token_ids:
            ids.extend([index] * (next(counts) if index == self.image_token_id else 1))
        return ids


@dataclass(frozen=True)
class PromptBuilder:
    """Builds prompts for one model. `image_tokens(width, height, size)` raises ValueError for an impossible shape."""

    tokenizer: PromptTokenizer
    image_tokens: Callable[[int, int, ImageSize], int]
    image_size: ImageSize
    image_token_id: int
    max_model_len: int

    def build(self, request: GenerateRequest) -> Prompt:
        """Raises PromptTooLong if no answer token fits, PromptRefused for an image of an impossible shape.

        A longer answer than fits is not refused: its bound is lowered, as vLLM does.
        """
        size = self.image_size.limited_to(request.max_pixels)
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        images = tuple(part.image for part in parts)
        token_ids = self._token_ids(request.messages)
        if token_ids.count(self.image_token_id) != len(images):
            raise GenerationFailed("the model's chat template does not keep one placeholder for each image")
        counts = tuple(self._image_tokens(image, size) for image in images)
        prompt = Prompt(
            token_ids=tuple(token_ids),
            images=images,
            image_size=size,
            image_tokens=counts,
            image_token_id=self.image_token_id,
            max_new_tokens=request.max_new_tokens,
            tenant=request.tenant,
            image_names=tuple(
                _image_name(part, request.tenant, tokens) for part, tokens in zip(parts, counts, strict=True)
            ),
        )
        room = self.max_model_len - prompt.length
        if room < 1:
            raise PromptTooLong(prompt.length, self.max_model_len)
        return replace(prompt, max_new_tokens=min(room, request.max_new_tokens))

    def _image_tokens(self, image: "Image | EncodedPicture", size: ImageSize) -> int:
        try:
            return self.image_tokens(image.width, image.height, size)
        except ValueError as error:
            raise PromptRefused(impossible_image(image.width, image.height)) from error

    def _token_ids(self, messages: Sequence[Message]) -> list[int]:
        specials = self.tokenizer.specials
        rendered = self.tokenizer.render(
            [{"role": message.role, "content": _content(message, specials)} for message in messages]
        )
        return [
            index for text, literal in _pieces(rendered, specials) for index in self.tokenizer.encode(text, literal)
        ]


def image_name(content: str, tokens: int) -> str:
    """The name of an image as the model sees it. `content` names its tenant and its content (`ImagePart.key`).

    The limit of pixels is not in it: a resolution that follows load and bandwidth moves by a pixel from request to request,
    and the model sees the same grid. Rows and columns both grow with the limit, so for one image as many tokens are the same
    grid.
    """
    return f"{content}@{tokens}"


def _image_name(part: ImagePart, tenant: str, tokens: int) -> str:
    content, image = part.key, part.image
    if not content:
        if isinstance(image, EncodedPicture):
            raise GenerationFailed("an encoded image came without its name")
        content = key(tenant, image.tobytes(), f"{image.mode} {image.width}x{image.height}")
    return image_name(content, tokens)


def _content(message: Message, specials: Sequence[str]) -> str:
    placeholders = [IMAGE_PLACEHOLDER for part in message.parts if isinstance(part, ImagePart)]
    texts = [guard(part.text, specials) for part in message.parts if isinstance(part, TextPart)]
    return "\n".join([*placeholders, *texts])


def guard(text: str, specials: Sequence[str]) -> str:
    """Replace each control token in a client's text, so that the text cannot forge a turn or an image."""
    for number, special in enumerate(specials):
        text = text.replace(special, f"\ue000{number}\ue001")
    return text


def _pieces(rendered: str, specials: Sequence[str]) -> list[tuple[str, bool]]:
    """(text, literal) in order. Only a guarded control token is literal, so ordinary prompts stay in one piece."""
    pieces: list[tuple[str, bool]] = []
    start = 0
    for match in _GUARDED.finditer(rendered):
        number = int(match.group(1))
        if number >= len(specials):  # the client wrote these characters itself
            continue
        pieces += [(rendered[start : match.start()], False), (specials[number], True)]
        start = match.end()
    pieces.append((rendered[start:], False))
    return [(text, literal) for text, literal in pieces if text]


def impossible_image(width: int, height: int) -> str:
    """What callers read of a shape that the model's processor refuses."""
    return f"the model cannot take an image of {width} x {height} pixels: one side is more than 200 times the other"
