"""The new weights of a variant on disk: only what the technique adds, beside how long it learned."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from autoglm_serving.vision.modules.variant import FusedVariant


class WeightsRefused(ValueError):
    """A file of new weights belongs to another variant or another model. The message says which."""


@dataclass(frozen=True)
class Tuned:
    """How many weights a technique adds, and for how many steps they were learned."""

    new_weights: int
    steps: int


def new_weights(variant: FusedVariant) -> int:
    """Weights that the model did not have."""
    return sum(each.numel() for each in variant.tower.parameters())


def path_of(folder: Path, name: str) -> Path:
    """The file of one variant."""
    return folder / f"{name}.safetensors"


def save_new(variant: FusedVariant, name: str, folder: Path, steps: int, model: str) -> Path:
    """Write the new weights in half precision; `model` is the fingerprint of what they were trained beside."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value.detach().cpu().to(torch.float16) for key, value in variant.tower.state_dict().items()}
    beside = folder / f".{name}.unfinished"
    save_file(values, beside, metadata={"variant": name, "steps": str(steps), "model": model})
    beside.rename(path_of(folder, name))
    return path_of(folder, name)


def load_new(variant: FusedVariant, name: str, folder: Path | None) -> Tuned:
    """Put learned weights into a variant, where there are any. Raises WeightsRefused."""
    count = new_weights(variant)
    if folder is None or not count or not path_of(folder, name).exists():
        return Tuned(count, 0)
    path = path_of(folder, name)
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        values = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a mapping
    own = fingerprint(variant.model)
    if about.get("variant") != name or about.get("model") != own:
        raise WeightsRefused(
            f"{path} belongs to {about.get('variant')} of model {about.get('model')}, not to {name} of {own}: train it anew"
        )
    try:
        variant.tower.load_state_dict(values)
    except RuntimeError as error:
        raise WeightsRefused(f"{path} does not fit: {error}") from error
    return Tuned(count, int(about["steps"]))


def fingerprint(model: nn.Module) -> str:
    """Tells trained models apart: sums of a few weights and their shapes."""
    parts = {
        key: [list(value.shape), round(float(value.double().abs().sum()), 3)]
        for key, value in model.state_dict().items()
        if key.endswith(("qkv.weight", "o_proj.weight"))
    }
    return f"{zlib.crc32(json.dumps(parts, sort_keys=True).encode()):08x}"
