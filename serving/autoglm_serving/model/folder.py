"""Is a model folder whole? Read before anything large is loaded, so that the error names the missing part."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoglm_serving.model.errors import ModelInvalid

ARCHITECTURE = "glm4v"
_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder. `end_ids` end an answer; `max_positions` bounds prompt and answer together."""

    path: Path
    end_ids: tuple[int, ...]
    image_token_id: int
    max_positions: int

    def config(self) -> dict[str, Any]:
        """What its config.json says."""
        return _read_json(self.path / "config.json")


def check_folder(path: Path) -> ModelFolder:
    """Raise ModelInvalid, with the file and the reason, unless every part of a glm4v model is there."""
    config = _read_json(path / "config.json")
    model_type = config.get("model_type")
    if model_type != ARCHITECTURE:
        raise ModelInvalid(
            f"{path / 'config.json'} describes model_type {model_type!r}; only {ARCHITECTURE!r} "
            "(GLM-4.1V, AutoGLM-Phone-9B) is supported"
        )
    _check_weights(path)
    _read_json(path / "tokenizer.json")
    _read_json(path / "preprocessor_config.json")
    _check_chat_template(path)
    return ModelFolder(
        path=path,
        end_ids=_end_ids(path, config),
        image_token_id=_integer(config, "image_token_id", path),
        max_positions=_integer(_text_config(config, path), "max_position_embeddings", path),
    )


def _check_weights(path: Path) -> None:
    index_path = path / "model.safetensors.index.json"
    if not index_path.exists():
        _check_safetensors(path / "model.safetensors")
        return
    weight_map = _read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelInvalid(f"{index_path} has no weight_map")
    for name in sorted(set(weight_map.values())):
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelInvalid(f"{index_path} names a file outside the folder: {name!r}")
        _check_safetensors(path / name)


def _check_safetensors(path: Path) -> None:
    """The header must parse, and the file must be as long as the header says: a download cut short is not."""
    if not path.is_file():
        raise ModelInvalid(f"{path} is missing: the model has no weights there (only safetensors are read)")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        if not 0 < length <= min(size - _HEADER_LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise ModelInvalid(f"{path} is not a safetensors file, or it was cut short")
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        expected = _HEADER_LENGTH_BYTES + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelInvalid(f"{path} has a broken safetensors header") from error
    if size != expected:
        raise ModelInvalid(f"{path} has {size} bytes, its header says {expected}: the file was cut short")


def _check_chat_template(path: Path) -> None:
    if (path / "chat_template.jinja").is_file():
        return
    if "chat_template" not in _read_json(path / "tokenizer_config.json"):
        raise ModelInvalid(f"{path} has no chat template (chat_template.jinja)")


def _end_ids(path: Path, config: dict[str, Any]) -> tuple[int, ...]:
    generation = path / "generation_config.json"
    sources = [_read_json(generation)] if generation.exists() else []
    for source in (*sources, _text_config(config, path), config):
        value = source.get("eos_token_id")
        ids = [value] if isinstance(value, int) else value
        if isinstance(ids, list) and ids and all(isinstance(item, int) for item in ids):
            return tuple(ids)
    raise ModelInvalid(f"{path} names no eos_token_id: answers would never end")


def _text_config(config: dict[str, Any], path: Path) -> dict[str, Any]:
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelInvalid(f"{path / 'config.json'} has no text_config")
    return text


def _integer(config: dict[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int):
        raise ModelInvalid(f"{path / 'config.json'} has no {key}")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelInvalid(f"{path} is missing") from error
    except (ValueError, OSError) as error:
        raise ModelInvalid(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelInvalid(f"{path} does not hold a JSON object")
    return content
