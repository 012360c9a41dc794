"""AutoGLM-Tiny: the architecture of AutoGLM-Phone-9B (`glm4v`) with random weights and 5.3 million parameters.

It answers nonsense at a speed that a laptop can bear, through exactly the files and code paths of the real model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from autoglm_serving.model.tiny_tokenizer import train_tokenizer, write_tokenizer
from autoglm_serving.model.vocabulary import (
    BEGIN_OF_IMAGE,
    BEGIN_OF_VIDEO,
    END_OF_IMAGE,
    END_OF_TEXT,
    END_OF_VIDEO,
    END_TOKENS,
    IMAGE,
    VIDEO,
    VOCABULARY_SIZE,
)

if TYPE_CHECKING:
    from transformers import Glm4vConfig

MAX_POSITIONS = 32768
# Larger than the class default of 0.02: with it the logits of random weights are so close to each other that rounding
# decides the most likely token, and that token would hardly depend on the image.
WEIGHT_STD = 0.08

_TEXT = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,  # transformers always has it, vLLM only where this says so
    "max_position_embeddings": MAX_POSITIONS,
    "initializer_range": WEIGHT_STD,
    # Head dimension 64, half of it rotated, in pairs: 16 frequencies, shared out to time, height and width.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 6, 6],
    },
}
_VISION = {
    "depth": 4,
    "hidden_size": 128,
    "num_heads": 4,
    "intermediate_size": 256,
    "out_hidden_size": 256,
    "image_size": 336,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "initializer_range": WEIGHT_STD,
}
_PIXELS = {
    "do_rescale": True,
    "do_normalize": True,
    "do_resize": True,
    "do_convert_rgb": True,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "processor_class": "Glm4vProcessor",
}
# As in GLM-4.1V's folder: 6,144 image tokens at most. Areas count both frames of a still image.
_IMAGE_SIZE = {"shortest_edge": 12544, "longest_edge": 9633792}
_VIDEO_SIZE = {"shortest_edge": 12544, "longest_edge": 9633792}


def build(
    folder: Path, seed: int = 0, text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None
) -> None:
    """Write the whole model folder. `folder` must exist; files of an earlier build are replaced.

    `text` and `vision` replace entries of the two configurations: other sizes, another spread of the weights.
    """
    tokenizer = train_tokenizer()
    sizes = {**_VISION, **(vision or {})}
    config = _config(tokenizer, {**_TEXT, **(text or {})}, sizes)
    pixels = {**_PIXELS, "patch_size": sizes["patch_size"], "merge_size": sizes["spatial_merge_size"]}
    write_tokenizer(tokenizer, folder)
    _write_weights(config, folder, seed)
    _write_json(folder / "generation_config.json", _generation(tokenizer))
    _write_json(
        folder / "preprocessor_config.json",
        {**pixels, "image_processor_type": "Glm4vImageProcessor", "size": _IMAGE_SIZE},
    )
    _write_json(
        folder / "video_preprocessor_config.json",
        {**pixels, "video_processor_type": "Glm4vVideoProcessor", "size": _VIDEO_SIZE},
    )


def _config(tokenizer: Tokenizer, text: dict[str, Any], vision: dict[str, Any]) -> "Glm4vConfig":
    from transformers import Glm4vConfig

    pad = tokenizer.token_to_id(END_OF_TEXT)
    config = Glm4vConfig(
        text_config={**text, "pad_token_id": pad},
        vision_config=vision,
        image_token_id=tokenizer.token_to_id(IMAGE),
        video_token_id=tokenizer.token_to_id(VIDEO),
        image_start_token_id=tokenizer.token_to_id(BEGIN_OF_IMAGE),
        image_end_token_id=tokenizer.token_to_id(END_OF_IMAGE),
        video_start_token_id=tokenizer.token_to_id(BEGIN_OF_VIDEO),
        video_end_token_id=tokenizer.token_to_id(END_OF_VIDEO),
        tie_word_embeddings=False,
    )
    config.text_config.eos_token_id = _end_ids(tokenizer)
    return config


def _write_weights(config: "Glm4vConfig", folder: Path, seed: int) -> None:
    import torch
    from transformers import Glm4vForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Glm4vForConditionalGeneration(config)
    model.save_pretrained(folder)


def _generation(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "eos_token_id": _end_ids(tokenizer),
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "do_sample": False,
    }


def _end_ids(tokenizer: Tokenizer) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[token] for token in END_TOKENS]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
