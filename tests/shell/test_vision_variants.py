"""Variants of a model for the ablation table: each builds, learns and answers, and the baseline is the model."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from autoglm_serving.vision.modules.crop import CropRule
from autoglm_serving.vision.modules.look import LookByQuestion, look_by_tower
from autoglm_serving.vision.modules.pictures import with_crops
from autoglm_serving.vision.modules.rewriting import image_runs, resize_runs
from autoglm_serving.vision.modules.variant import CroppedVariant
from autoglm_serving.vision.modules.variants import VARIANTS, Options, build_variant
from support.tiny_glm4v import IMAGE, batch, tiny_glm4v

GRIDS = [(12, 8), (6, 10)]
OPTIONS = Options(query_grid=(3, 2))
CHANGED_COUNTS = {"tiles-2x2-queries", "tiles-2x2-weights", "queries", "crop-tower", "crop-question"}
SAME_AS_MODEL = {"tiles-2x2-concat-early", "padded", *(name for name in VARIANTS if name.startswith("attention-"))}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_glm4v()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


def test_the_baseline_is_the_model_bit_for_bit(model: Any) -> None:
    inputs = batch(GRIDS)
    with torch.no_grad():
        theirs, ours = model(**inputs), build_variant("baseline", model)(**inputs)
    assert torch.equal(theirs.logits, ours.logits)
    assert torch.equal(theirs.loss, ours.loss)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_takes_a_training_step(name: str, model: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    variant, inputs = build_variant(name, model, OPTIONS), batch(GRIDS)
    own = [p for n, p in variant.named_parameters() if not n.startswith("model.")]
    starts = [p.detach().clone() for p in own]
    optimizer = torch.optim.SGD(variant.parameters(), lr=0.1)
    for _ in range(2):  # what starts at zero holds back the gradients of what lies before it for one step
        out = variant(**inputs)
        assert torch.isfinite(out.loss)
        optimizer.zero_grad()
        out.loss.backward()
        assert all(p.grad is not None for p in variant.parameters())
        optimizer.step()
    assert all(not torch.equal(p, start) for p, start in zip(own, starts, strict=True)), "a part has not learned"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model was changed"


@pytest.mark.parametrize("name", sorted(SAME_AS_MODEL))
def test_a_variant_that_starts_as_the_model_gives_its_logits(name: str, model: Any) -> None:
    inputs = batch(GRIDS)
    with torch.no_grad():
        assert torch.allclose(build_variant(name, model)(**inputs).logits, model(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("name", ["tiles-2x2-concat", "scales-weights", "tiles-2x2-queries", "padded", "crop-question"])
def test_a_row_of_a_batch_is_what_it_is_alone(name: str, model: Any) -> None:
    variant, inputs = build_variant(name, model, OPTIONS), batch(GRIDS)
    alone = batch(GRIDS[:1])
    alone["pixel_values"] = inputs["pixel_values"][:96]
    with torch.no_grad():
        together, single = variant(**inputs).logits[:1], variant(**alone).logits
    assert torch.allclose(together[:, -7:], single[:, -7:], atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_counts_the_image_tokens_that_the_model_gets(name: str, model: Any) -> None:
    variant, inputs = build_variant(name, model, OPTIONS), batch(GRIDS)
    with torch.no_grad():
        prepared = variant.prepare(inputs)
    seen = (prepared["input_ids"] == IMAGE).sum(1).tolist()
    counted = variant.image_tokens(inputs)
    if name == "crop-question":  # the first look counts too
        assert all(count > tokens for count, tokens in zip(counted, seen, strict=True))
    else:
        assert counted == seen
    assert (counted != [24, 15]) == (name in CHANGED_COUNTS)


def test_a_variant_counts_its_operations(model: Any) -> None:
    inputs = batch(GRIDS)
    flops = {
        name: build_variant(name, model, OPTIONS).flops(inputs)
        for name in ("baseline", "tiles-2x2-concat", "scales-weights", "queries")
    }
    base = flops["baseline"]
    assert flops["tiles-2x2-concat"].vision < base.vision < flops["scales-weights"].vision
    assert flops["scales-weights"].language == base.language > flops["queries"].language
    assert base.total == base.vision + base.language


@pytest.mark.parametrize("name", ["baseline", "tiles-2x2-cross", "tiles-2x2-queries", "crop-tower", "crop-question"])
def test_generation_is_the_likeliest_token_each_time(name: str, model: Any) -> None:
    variant, inputs = build_variant(name, model, OPTIONS), batch(GRIDS[:1])
    made = variant.generate(inputs, max_new_tokens=3, do_sample=False)
    assert made.tolist() == [likeliest(variant, inputs, 3)]


def likeliest(variant: Any, inputs: dict[str, Tensor], count: int) -> list[int]:
    """Token by token from the whole prompt, without a cache."""
    with torch.no_grad():
        prepared = variant.prepare({name: value for name, value in inputs.items() if name != "labels"})
        made: list[int] = []
        for _ in range(count):
            made.append(int(variant.model(**prepared).logits[0, -1].argmax()))
            prepared = longer(prepared, made[-1])
    return made


def longer(prepared: dict[str, Any], token: int) -> dict[str, Any]:
    """The prepared inputs with one text token more."""

    def grown(value: Tensor, last: int) -> Tensor:
        return torch.cat((value, value.new_full((1, 1), last)), 1)

    changed = {**prepared, "input_ids": grown(prepared["input_ids"], token)}
    changed["attention_mask"] = grown(prepared["attention_mask"], 1)
    changed["mm_token_type_ids"] = grown(prepared["mm_token_type_ids"], 0)
    if "position_ids" in prepared:
        changed["position_ids"] = torch.cat((prepared["position_ids"], prepared["position_ids"][..., -1:] + 1), -1)
    return changed


def test_an_unknown_name_is_an_error(model: Any) -> None:
    with pytest.raises(KeyError):
        build_variant("no-such-variant", model)


# Crops


@pytest.mark.parametrize("look", [look_by_tower, LookByQuestion()])
def test_a_crop_of_everything_is_the_model(look: Any, model: Any) -> None:
    variant, inputs = CroppedVariant(model, look, CropRule(margin=99, max_share=1)), batch(GRIDS)
    with torch.no_grad():
        ours, theirs = variant(**inputs).logits, model(**inputs).logits
    kept = inputs["attention_mask"].bool()  # what stands in padding means nothing
    assert torch.allclose(ours[kept], theirs[kept], atol=1e-4)


def test_leaving_tokens_out_is_hiding_them(model: Any) -> None:
    """The short sequence gives what the long one gives whose other image tokens are masked."""
    variant, inputs = CroppedVariant(model, look_by_tower, CropRule(max_share=0.5, margin=0)), batch(GRIDS[:1])
    del inputs["labels"]
    with torch.no_grad():
        glance = variant.glance(inputs)
        short = model(**variant.prepare(inputs)).logits
        hidden = inputs["attention_mask"].clone()
        columns = image_runs(inputs["input_ids"][0], IMAGE)[0]
        dropped = [column for cell, column in enumerate(columns) if cell not in glance.crops[0].cells()]
        hidden[0, dropped] = 0
        positions, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"]
        )
        long = model(**{**inputs, "attention_mask": hidden, "position_ids": positions}).logits
    assert len(dropped) >= len(columns) // 2
    assert torch.allclose(short[0, -8:], long[0, -8:], atol=1e-4)


def test_what_is_to_be_learned_does_not_decide_where_to_look(model: Any) -> None:
    variant = build_variant("crop-question", model)
    inputs, others = batch(GRIDS), batch(GRIDS)
    others["input_ids"][:, -2:] = 40
    others["labels"][:, -2:] = 40
    with torch.no_grad():
        assert variant.glance(inputs).crops == variant.glance(others).crops  # type: ignore[operator]


def test_a_crop_by_the_question_encodes_the_crop_alone_at_its_place(model: Any) -> None:
    variant, inputs = build_variant("crop-question", model), batch([(24, 16)])
    with torch.no_grad():
        glance = variant.glance(inputs)  # type: ignore[operator]
        crop = glance.crops[0]
        prepared = with_crops(model, inputs, glance.crops, glance.tokens)
    assert crop.saving.after < 96
    assert glance.looked == (24,)
    columns = image_runs(prepared["input_ids"][0], IMAGE)[0]
    rows, across = prepared["position_ids"][1:, 0, columns] - 2  # two tokens come before the picture
    assert (rows * 8 + across).tolist() == crop.cells()
    (saving,) = variant.savings(inputs)  # type: ignore[operator]
    assert saving.after == crop.saving.after + 24


# Prompts


def test_placeholders_follow_the_number_of_tokens_and_the_rest_stays() -> None:
    ids = torch.tensor([[0, 1, IMAGE, IMAGE, IMAGE, 2, IMAGE, 3], [4, IMAGE, IMAGE, 5, 6, 7, 8, 9]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.where(ids == 3, -100)}
    inputs["attention_mask"][0, 0] = 0
    made = resize_runs(inputs, IMAGE, 0, [1, 2, 4])
    assert made["input_ids"].tolist() == [
        [0, 0, 0, 0, 1, IMAGE, 2, IMAGE, IMAGE, 3],
        [4, IMAGE, IMAGE, IMAGE, IMAGE, 5, 6, 7, 8, 9],
    ]
    assert made["attention_mask"].tolist() == [[0] * 4 + [1] * 6, [1] * 10]
    assert made["labels"][0].tolist() == [-100] * 9 + [3]
    assert resize_runs(inputs, IMAGE, 0, [3, 1, 2]) is inputs


def test_a_prompt_with_another_number_of_pictures_is_an_error() -> None:
    ids = torch.tensor([[1, IMAGE, 2]])
    with pytest.raises(ValueError, match="1 pictures in the prompts, 2 in the grids"):
        resize_runs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, IMAGE, 0, [1, 1])
