"""The counted operations are those that torch counts, and those known of the real model."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

from autoglm_serving.vision import flops
from autoglm_serving.vision.sizing import TokenGrid, token_grid

IMAGE = 9
TEXT_CONFIG = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 3, 3],
    },
}
VISION_CONFIG = {
    "depth": 2,
    "hidden_size": 96,
    "num_heads": 4,
    "intermediate_size": 160,
    "out_hidden_size": 128,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}


@pytest.fixture(scope="module")
def model() -> Any:
    """The real architecture, with sides that are all different so that no two can be mixed up."""
    torch.set_num_threads(1)
    config = Glm4vConfig(text_config=TEXT_CONFIG, vision_config=VISION_CONFIG, image_token_id=IMAGE)
    model = Glm4vForConditionalGeneration(config).eval()
    # The counter does not know the CPU's fused attention; plain matrices it does.
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module")
def shapes(model: Any) -> flops.Architecture:
    return flops.architecture(model.config.to_dict())


def patches(images: list[TokenGrid]) -> torch.Tensor:
    """Black ones, four for each token: two frames of 14 x 14 pixels in three colours."""
    return torch.zeros(sum(4 * image.tokens for image in images), 3 * 2 * 14 * 14)


def counted(run: Any) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize("grids", [[(4, 4)], [(6, 10)], [(20, 9)], [(4, 8), (10, 5)]], ids=str)
def test_the_vision_towers_operations_are_those_torch_counts(
    model: Any, shapes: flops.Architecture, grids: list[tuple[int, int]]
) -> None:
    images = [TokenGrid(*grid) for grid in grids]
    thw = torch.tensor([[1, 2 * image.rows, 2 * image.columns] for image in images])
    pixels = patches(images)
    seen = counted(lambda: model.model.visual(pixels, grid_thw=thw))
    assert flops.vision(shapes.vision, images).total == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize("tokens", [16, 100, 333])
def test_a_prefills_operations_are_those_torch_counts_for_the_masked_square(
    model: Any, shapes: flops.Architecture, tokens: int
) -> None:
    ids = torch.randint(10, 500, (1, tokens))
    seen = counted(lambda: model(input_ids=ids, logits_to_keep=1))
    assert flops.prefill(shapes.text, tokens, masked_square=True).total == pytest.approx(seen, rel=0.02)


def test_a_whole_request_with_a_picture_and_an_answer_costs_what_torch_counts(
    model: Any, shapes: flops.Architecture
) -> None:
    image, text, answer = TokenGrid(6, 5), 40, 5
    ids = torch.cat([torch.full((1, image.tokens), IMAGE), torch.randint(10, 500, (1, text))], dim=1)
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": patches([image]),
        "image_grid_thw": torch.tensor([[1, 2 * image.rows, 2 * image.columns]]),
    }
    seen = counted(lambda: model.generate(**inputs, max_new_tokens=answer, min_new_tokens=answer, do_sample=False))
    prompt = text + image.tokens
    expected = (
        flops.vision(shapes.vision, [image])
        + flops.prefill(shapes.text, prompt, masked_square=True)
        + flops.decode(shapes.text, prompt, answer)
    )
    assert expected.total == pytest.approx(seen, rel=0.02)
    causal = flops.request(shapes, [image], text, answer)
    assert causal.total < expected.total
    assert causal.vision == expected.vision


@pytest.mark.parametrize(
    ("size", "max_pixels", "vision", "prefill"),
    [
        ((1080, 2400), 9_633_792 // 2, 46, 101),
        ((1080, 2400), 5_000_000 // 2, 41, 96),
        ((720, 1600), 9_633_792 // 2, 14, 65),
        ((540, 1200), 9_633_792 // 2, 6, 52),
        ((360, 800), 9_633_792 // 2, 3, 44),
    ],
)
def test_the_real_models_teraflops_with_a_chinese_prompt(
    size: tuple[int, int], max_pixels: int, vision: int, prefill: int
) -> None:
    grid, text = token_grid(*size, max_pixels), 2200
    model = flops.AUTOGLM_PHONE_9B
    assert flops.vision(model.vision, [grid]).total / 1e12 == pytest.approx(vision, abs=0.5)
    assert flops.prefill(model.text, grid.tokens + text).total / 1e12 == pytest.approx(prefill, rel=0.015)


def test_the_text_layers_weights_are_the_real_models() -> None:
    # A token costs two operations for each weight it meets: 8,158.8 million in layers, less biases and norms.
    per_token = flops.prefill(flops.AUTOGLM_PHONE_9B.text, 1, logits=0).text_linear
    assert per_token / 2 == pytest.approx(8158.8e6, rel=1e-3)
