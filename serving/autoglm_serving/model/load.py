"""Load the parts of a checked model folder: tokenizer, image sizes, weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import ModelFolder

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import Glm4vForConditionalGeneration, Glm4vVisionModel


def import_libraries() -> None:
    """Import what tokenizers and image processors need: seconds, which whoever times a start does not want among theirs."""
    from transformers import AutoImageProcessor, AutoTokenizer  # noqa: F401


class ModelTokenizer:
    """The folder's tokenizer: chat template, ids, and the bytes of each id. Safe in several threads."""

    def __init__(self, folder: ModelFolder) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        try:
            self._hf: Any = AutoTokenizer.from_pretrained(folder.path)
            definition = self._hf.backend_tokenizer.to_str()
            self._plain = Tokenizer.from_str(definition)
            self._literal = Tokenizer.from_str(definition)
        except Exception as error:
            raise ModelInvalid(f"the tokenizer of {folder.path} cannot be loaded: {error}") from error
        # Two tokenizers, because switching one of them back and forth is not safe while another thread encodes.
        self._literal.encode_special_tokens = True

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The control tokens: text of a client that contains one must not become one."""
        added = self._plain.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The whole prompt as text, ready for the assistant's answer."""
        text: str = self._hf.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def encode(self, text: str, literal: bool = False) -> list[int]:
        """Ids of `text`; with `literal`, control tokens in it are spelled out as ordinary text."""
        tokenizer = self._literal if literal else self._plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def pieces(self) -> Mapping[int, bytes]:
        """The bytes of every id; control tokens have none."""
        added = self._plain.get_added_tokens_decoder()
        pieces = {
            index: bytes(_BYTE_OF[character] for character in token)
            for token, index in self._plain.get_vocab(with_added_tokens=False).items()
            if all(character in _BYTE_OF for character in token)
        }
        pieces.update({index: b"" if token.special else token.content.encode() for index, token in added.items()})
        return pieces


@dataclass(frozen=True)
class ImageSize:
    """The processor's bounds. They are areas, counted twice for a still image (two equal frames)."""

    shortest_edge: int
    longest_edge: int

    def limited_to(self, max_pixels: int | None) -> "ImageSize":
        """At most `max_pixels` (width x height), never above the model's own limit, never below its smallest image."""
        if max_pixels is None:
            return self
        limit = max(self.shortest_edge, min(self.longest_edge, FRAMES_PER_IMAGE * max_pixels))
        return ImageSize(self.shortest_edge, limit)

    def as_dict(self) -> dict[str, int]:
        """As the processors of transformers and vLLM want it."""
        return {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge}


FRAMES_PER_IMAGE = 2


class ModelImages:
    """The folder's image processor: how many tokens an image costs, and its pixels as the model wants them."""

    def __init__(self, folder: ModelFolder) -> None:
        from transformers import AutoImageProcessor

        try:
            self._hf: Any = AutoImageProcessor.from_pretrained(folder.path)
            self.size = ImageSize(int(self._hf.size["shortest_edge"]), int(self._hf.size["longest_edge"]))
        except Exception as error:
            raise ModelInvalid(f"the image processor of {folder.path} cannot be loaded: {error}") from error

    @property
    def patch_values(self) -> int:
        """Numbers in one patch of `pixels`: three colours, and each frame as often as the model wants to see it."""
        return 3 * int(self._hf.temporal_patch_size) * int(self._hf.patch_size) ** 2

    def tokens(self, width: int, height: int, size: ImageSize) -> int:
        """Tokens of one image; ValueError if its shape is impossible (longer than 200 times its width)."""
        patches = self._hf.get_number_of_image_patches(height, width, {"size": size.as_dict()})
        return int(patches) // int(self._hf.merge_size) ** 2

    def grid(self, width: int, height: int, size: ImageSize) -> tuple[int, int, int]:
        """Frames, patches down and patches across, as `pixels` would give them."""
        from transformers.models.glm4v.image_processing_glm4v import smart_resize

        frames, patch = int(self._hf.temporal_patch_size), int(self._hf.patch_size)
        fit_height, fit_width = smart_resize(
            num_frames=frames,
            height=height,
            width=width,
            temporal_factor=frames,
            factor=patch * int(self._hf.merge_size),
            min_pixels=size.shortest_edge,
            max_pixels=size.longest_edge,
        )
        return 1, fit_height // patch, fit_width // patch

    def pixels(self, image: "Image", size: ImageSize) -> "tuple[torch.Tensor, torch.Tensor]":
        """(pixel values, grid of one row: frames, patches down, patches across)."""
        output = self._hf(images=[image], size=size.as_dict(), return_tensors="pt")
        return output["pixel_values"], output["image_grid_thw"]


def load_weights(folder: ModelFolder, dtype: "torch.dtype", device: "torch.device") -> "Glm4vForConditionalGeneration":
    """The model with its real weights. A weight that is missing or of another shape is an error, not random numbers."""
    from transformers import Glm4vForConditionalGeneration

    try:
        model, report = Glm4vForConditionalGeneration.from_pretrained(
            folder.path, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
        )
    except Exception as error:
        raise ModelInvalid(f"the weights of {folder.path} cannot be loaded: {error}") from error
    check_report(folder, report)
    loaded: Glm4vForConditionalGeneration = model.to(device).eval()
    return loaded


def load_tower(folder: ModelFolder, dtype: "torch.dtype", device: "torch.device") -> "Glm4vVisionModel":
    """The vision tower and its merger alone, with the same weights as `load_weights` gives them."""
    from transformers import AutoConfig, Glm4vVisionModel

    try:
        tower, report = Glm4vVisionModel.from_pretrained(
            folder.path,
            config=AutoConfig.from_pretrained(folder.path).vision_config,
            dtype=dtype,
            attn_implementation="sdpa",
            key_mapping={r"^(model\.)?visual\.": ""},
            output_loading_info=True,
            local_files_only=True,
        )
    except Exception as error:
        raise ModelInvalid(f"the vision tower of {folder.path} cannot be loaded: {error}") from error
    check_report(folder, report)
    loaded: Glm4vVisionModel = tower.to(device).eval()
    return loaded


def check_report(folder: ModelFolder, report: Mapping[str, Any]) -> None:
    """Raise ModelInvalid when transformers' report on a load says that a weight is missing or does not fit."""
    problems = [f"{kind}: {sorted(map(str, report[kind]))[:3]}" for kind in _LOADING_PROBLEMS if report.get(kind)]
    if problems:
        raise ModelInvalid(f"the weights of {folder.path} do not fit the architecture ({'; '.join(problems)})")


_LOADING_PROBLEMS = ("missing_keys", "mismatched_keys", "error_msgs")


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + position): byte for position, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_alphabet()
