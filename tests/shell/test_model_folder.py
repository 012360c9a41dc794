"""Model folders: AutoGLM-Tiny as written, and folders that are not whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ImageSize, ModelImages, ModelTokenizer
from autoglm_serving.model.tiny import build
from autoglm_serving.model.vocabulary import ACTION_TOKENS, SPECIAL_TOKENS, TAG_TOKENS, VOCABULARY_SIZE


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def test_autoglm_tiny_is_a_whole_folder_with_the_names_of_glm(folder: Path) -> None:
    checked = check_folder(folder)
    assert checked.max_positions == 32768
    tokenizer = ModelTokenizer(checked)
    assert tokenizer.encode("<|image|>") == [checked.image_token_id]
    assert [tokenizer.encode(token) for token in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>")] == [
        [index] for index in checked.end_ids
    ]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
    ]


def test_the_weights_have_the_names_of_the_real_model(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert {
        "model.visual.patch_embed.proj.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "model.visual.merger.post_projection_norm.weight",
        "model.language_model.layers.3.mlp.gate_up_proj.weight",
        "model.language_model.layers.0.post_self_attn_layernorm.weight",
        "model.language_model.embed_tokens.weight",
        "lm_head.weight",
    } <= names


def test_the_same_seed_gives_the_same_files_and_another_seed_other_weights(folder: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        build(tmp_path / name, seed)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    weights = "model.safetensors"
    assert (tmp_path / "other" / weights).read_bytes() != (folder / weights).read_bytes()


def test_text_survives_the_tokenizer_in_both_languages(folder: Path) -> None:
    tokenizer = ModelTokenizer(check_folder(folder))
    for text in (
        'do(action="Tap", element=[499,182])',
        "打开微信，发送“你好”😀",
        "<think>a</think>\n\n<answer>",
        "é\t\x00",
    ):
        assert b"".join(tokenizer.pieces[index] for index in tokenizer.encode(text)).decode() == text


def test_control_tokens_have_no_bytes_and_tags_have(folder: Path) -> None:
    tokenizer = ModelTokenizer(check_folder(folder))
    assert set(tokenizer.specials) == set(SPECIAL_TOKENS)
    assert [tokenizer.pieces[tokenizer.encode(token)[0]] for token in SPECIAL_TOKENS] == [b""] * len(SPECIAL_TOKENS)
    plain = [*TAG_TOKENS, *ACTION_TOKENS]
    assert [tokenizer.pieces[tokenizer.encode(token)[0]].decode() for token in plain] == plain
    assert set(tokenizer.pieces) == set(range(VOCABULARY_SIZE))


def test_a_control_token_can_be_spelled_out(folder: Path) -> None:
    tokenizer = ModelTokenizer(check_folder(folder))
    literal = tokenizer.encode("<|user|>", literal=True)
    assert len(literal) > 1
    assert b"".join(tokenizer.pieces[index] for index in literal) == b"<|user|>"


def test_the_chat_template_writes_glms_frame(folder: Path) -> None:
    tokenizer = ModelTokenizer(check_folder(folder))
    rendered = tokenizer.render(
        [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "U"},
            {"role": "assistant", "content": "<think>x</think><answer>A</answer>"},
            {"role": "user", "content": "V"},
        ]
    )
    assert rendered == (
        "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>\n<think>x</think><answer>A</answer><|user|>\nV<|assistant|>\n"
    )


@pytest.mark.parametrize(
    ("width", "height", "limit", "tokens"),
    [
        (1080, 2400, None, 3354),
        (1080, 2400, 2_500_000, 3108),
        (1080, 2400, 500_000, 592),
        (1440, 3200, 250_000, 286),
        (360, 800, None, 377),
        (112, 112, None, 16),
    ],
)
def test_an_image_costs_the_tokens_that_glm_documents(
    folder: Path, width: int, height: int, limit: int | None, tokens: int
) -> None:
    images = ModelImages(check_folder(folder))
    assert images.size == ImageSize(12544, 9_633_792)
    assert images.tokens(width, height, images.size.limited_to(limit)) == tokens


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    """Change keys of a JSON file; None removes one."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.update(changes)
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return apply


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def index(weight_map: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("config.json"), "config.json is missing"),
        (cut("config.json", 20), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "does not hold a JSON object"),
        (edit("config.json", model_type="llama"), "model_type 'llama'; only 'glm4v'"),
        (edit("config.json", text_config=None), "no text_config"),
        (edit("config.json", image_token_id=None), "no image_token_id"),
        (remove("model.safetensors"), "model.safetensors is missing"),
        (cut("model.safetensors", 1_000_000), "has 1000000 bytes, its header says .* cut short"),
        (cut("model.safetensors", 4), "not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x04" + bytes(7) + b"null"), "broken .* header"),
        (index({"a": "model-00001-of-00002.safetensors"}), "model-00001-of-00002.safetensors is missing"),
        (index({"a": "../../etc/passwd"}), "outside the folder"),
        (index({}), "no weight_map"),
        (remove("tokenizer.json"), "tokenizer.json is missing"),
        (remove("preprocessor_config.json"), "preprocessor_config.json is missing"),
        (remove("chat_template.jinja"), "no chat template"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_the_part_that_is_wrong(
    copy: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(copy)
    with pytest.raises(ModelInvalid, match=reason):
        check_folder(copy)


def test_end_tokens_come_from_the_model_config_if_there_is_no_generation_config(copy: Path) -> None:
    expected = check_folder(copy).end_ids
    remove("generation_config.json")(copy)
    assert check_folder(copy).end_ids == expected
    config = json.loads((copy / "config.json").read_text())
    del config["text_config"]["eos_token_id"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="would never end"):
        check_folder(copy)


def test_weights_in_several_files_are_whole_if_all_are_there(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    index({"a": "model-00001-of-00001.safetensors"})(copy)
    check_folder(copy)


def test_a_broken_tokenizer_is_an_invalid_model(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ModelInvalid, match="tokenizer"):
        ModelTokenizer(check_folder(copy))
