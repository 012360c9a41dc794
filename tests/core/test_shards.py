"""How a model is cut over the ranks of a gang."""

from dataclasses import replace

import pytest

from autoglm_serving.engines.interface import EngineOptionsInvalid
from autoglm_serving.engines.shards import Cut, ModelSizes, check_text, shard_plan, tower_divides

PHONE = ModelSizes(
    heads=32,
    key_value_heads=2,
    intermediate=13696,
    vocabulary=151552,
    vision_heads=12,
    vision_intermediate=4096,
    merger_intermediate=13696,
)
TEXT_LAYER = "model.language_model.layers.17"
BLOCK = "model.visual.blocks.3"


@pytest.mark.parametrize(
    ("module", "cut"),
    [
        (f"{TEXT_LAYER}.self_attn.q_proj", Cut(0)),
        (f"{TEXT_LAYER}.self_attn.v_proj", Cut(0)),
        (f"{TEXT_LAYER}.self_attn.o_proj", Cut(1, "sum")),
        (f"{TEXT_LAYER}.mlp.gate_up_proj", Cut(0, parts=2)),
        (f"{TEXT_LAYER}.mlp.down_proj", Cut(1, "sum")),
        (f"{BLOCK}.attn.qkv", Cut(0, parts=3)),
        (f"{BLOCK}.attn.proj", Cut(1, "sum")),
        (f"{BLOCK}.mlp.up_proj", Cut(0)),
        (f"{BLOCK}.mlp.down_proj", Cut(1, "sum")),
        ("model.visual.merger.gate_proj", Cut(0)),
        ("model.visual.merger.down_proj", Cut(1, "sum")),
        ("model.language_model.embed_tokens", Cut(0, "lookup")),
        ("lm_head", Cut(0, "gather")),
        ("model.visual.merger.proj", None),
        ("model.visual.patch_embed.proj", None),
        ("model.visual.embeddings.position_embedding", None),
        (f"{TEXT_LAYER}.input_layernorm", None),
    ],
)
def test_every_large_layer_of_both_halves_is_cut_and_no_other(module: str, cut: Cut | None) -> None:
    assert shard_plan(PHONE, 2).cut_of(module) == cut


def test_two_ranks_leave_nothing_of_the_phone_model_whole() -> None:
    plan = shard_plan(PHONE, 2)
    assert (plan.key_value_heads, plan.vision_heads, plan.whole) == (1, 6, ())


def test_attention_whose_heads_do_not_divide_is_whole_on_every_rank_and_told() -> None:
    plan = shard_plan(PHONE, 8)
    assert plan.cut_of(f"{TEXT_LAYER}.self_attn.q_proj") is None
    assert plan.cut_of(f"{TEXT_LAYER}.self_attn.o_proj") is None
    assert plan.cut_of(f"{BLOCK}.attn.qkv") is None
    assert plan.cut_of(f"{TEXT_LAYER}.mlp.down_proj") == Cut(1, "sum")
    assert (plan.key_value_heads, plan.vision_heads) == (2, 12)
    assert plan.whole == (
        "attention of the language model (32 heads, 2 of keys and values) does not divide by 8",
        "attention of the vision tower (12 heads) does not divide by 8",
    )


def test_words_that_do_not_divide_are_whole() -> None:
    plan = shard_plan(replace(PHONE, vocabulary=151553), 2)
    assert plan.cut_of("lm_head") is plan.cut_of("model.language_model.embed_tokens") is None


def test_a_feed_forward_layer_that_does_not_divide_is_refused_with_what_would() -> None:
    with pytest.raises(EngineOptionsInvalid) as refused:
        shard_plan(replace(PHONE, intermediate=13700, merger_intermediate=100), 8)
    assert str(refused.value) == (
        "spec.engine.parallelism.tensor 8 does not divide the model's intermediate_size of the language model (13700) and "
        "intermediate_size of the vision tower (100): set it to one of 1, 2, 4"
    )


@pytest.mark.parametrize(("length", "parts", "ranks"), [(12, 1, 2), (12, 2, 3), (24, 3, 4), (8, 1, 1)])
def test_the_pieces_of_all_ranks_are_the_whole_and_each_part_is_shared_alike(
    length: int, parts: int, ranks: int
) -> None:
    pieces = [Cut(0, parts=parts).pieces(length, rank, ranks) for rank in range(ranks)]
    rows = [row for rank in pieces for piece in rank for row in range(length)[piece]]
    assert sorted(rows) == list(range(length))
    part = length // parts
    for rank in pieces:
        assert [piece.start // part for piece in rank] == list(range(parts))


def test_a_length_that_does_not_divide_has_no_pieces() -> None:
    with pytest.raises(ValueError, match="10 does not divide by 2 ranks and 3 parts"):
        Cut(0, parts=3).pieces(10, 0, 2)


def test_sizes_that_a_configuration_leaves_out_are_those_of_the_architecture() -> None:
    assert ModelSizes.read({"text_config": {}, "vision_config": {}}) == PHONE


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_vllm_may_cut_the_phone_model_also_where_ranks_share_heads_of_keys_and_values(ranks: int) -> None:
    check_text(PHONE, ranks)


@pytest.mark.parametrize(
    ("sizes", "ranks"),
    [
        (replace(PHONE, heads=12), 8),
        (replace(PHONE, key_value_heads=3), 2),
        (replace(PHONE, intermediate=13692), 8),
    ],
)
def test_what_vllm_cannot_cut_is_refused_by_the_field_with_the_numbers_that_fit(sizes: ModelSizes, ranks: int) -> None:
    fits = r"1(, [248])+$" if sizes.key_value_heads == 2 else r"1$"
    with pytest.raises(
        EngineOptionsInvalid, match=rf"^spec\.engine\.parallelism\.tensor {ranks} .*: set it to one of {fits}"
    ):
        check_text(sizes, ranks)


def test_the_tower_of_the_phone_model_is_cut_by_two_and_four_and_whole_on_each_of_eight() -> None:
    assert [tower_divides(PHONE, ranks) for ranks in (2, 4, 8)] == [True, True, False]
