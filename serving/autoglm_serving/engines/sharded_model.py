"""One rank's part of a `glm4v` model: only its slices are read from the files, and its layers join what they compute.

The model's own code runs unchanged on smaller matrices; sums and gathers are hooks of the layers that were cut.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

from autoglm_serving.engines.shards import Cut, ModelSizes, ShardPlan, shard_plan
from autoglm_serving.model.errors import ModelInvalid
from autoglm_serving.model.folder import ModelFolder
from autoglm_serving.model.load import check_report


def plan_for(folder: ModelFolder, ranks: int) -> ShardPlan:
    """How the model in a folder is cut; raises EngineOptionsInvalid when it cannot be."""
    return shard_plan(ModelSizes.read(folder.config()), ranks)


def load_shard(
    folder: ModelFolder, plan: ShardPlan, rank: int, dtype: torch.dtype, device: torch.device
) -> Glm4vForConditionalGeneration:
    """The part of `rank`. The process group of all ranks must be there when the model is called, not before."""

    class Shard(Glm4vForConditionalGeneration):  # type: ignore[misc]  # mypy does not follow transformers
        def __init__(self, config: Glm4vConfig) -> None:
            super().__init__(config)
            _shrink(self, plan, rank)

    try:
        config = Glm4vConfig.from_pretrained(folder.path, local_files_only=True)
        weights = _read(folder.path, plan, rank)
        model, report = Shard.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelInvalid(f"the weights of {folder.path} cannot be loaded: {error}") from error
    check_report(folder, report)
    loaded: Glm4vForConditionalGeneration = model.to(device).eval()
    return loaded


def _read(path: Path, plan: ShardPlan, rank: int) -> dict[str, torch.Tensor]:
    """The rank's slices of all weights; no more than them is read."""
    weights: dict[str, torch.Tensor] = {}
    for file in _files(path):
        with safe_open(path / file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118 - no dict
                cut = plan.cut_of(name.rpartition(".")[0])
                weights[name] = (
                    _slices(content.get_slice(name), cut, rank, plan.ranks) if cut else content.get_tensor(name)
                )
    return weights


def _files(path: Path) -> list[str]:
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _slices(stored: Any, cut: Cut, rank: int, ranks: int) -> torch.Tensor:
    shape = stored.get_shape()
    pieces = cut.pieces(shape[cut.axis], rank, ranks)
    read = [stored[piece] if cut.axis == 0 else stored[:, piece] for piece in pieces]
    return torch.cat(read).contiguous() if len(read) > 1 else read[0].contiguous()


def _shrink(model: Any, plan: ShardPlan, rank: int) -> None:
    """Give every layer that is cut the shape of its part, and the hooks that join the parts."""
    for name, module in list(model.named_modules()):
        cut = plan.cut_of(name)
        if cut is None:
            continue
        if cut.axis == 1 and getattr(module, "bias", None) is not None:
            raise ValueError(f"{name} is cut by its inputs and has a bias, which every rank would add")
        for key, weight in list(module.named_parameters(recurse=False)):
            shape = list(weight.shape)
            shape[cut.axis] //= plan.ranks
            setattr(module, key, nn.Parameter(weight.new_empty(shape), requires_grad=False))
        _join(module, cut, rank, plan.ranks)
    for block in model.model.visual.blocks:
        block.attn.num_heads = plan.vision_heads


def _join(module: nn.Module, cut: Cut, rank: int, ranks: int) -> None:
    match cut.join:
        case "none":
            return
        case "sum":
            module.register_forward_hook(_sum)
        case "gather":
            module.register_forward_hook(lambda _module, _inputs, output: _gathered(output, ranks))
        case "lookup":
            Lookup(module, rank).install()


def _sum(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    dist.all_reduce(output)
    return output


def _gathered(output: torch.Tensor, ranks: int) -> torch.Tensor:
    parts = [torch.empty_like(output) for _ in range(ranks)]
    dist.all_gather(parts, output.contiguous())
    return torch.cat(parts, dim=-1)


class Lookup:
    """An embedding of which this rank has a run of rows: rows of others come out as zeros, and the sum joins all."""

    def __init__(self, module: nn.Module, rank: int) -> None:
        assert isinstance(module, nn.Embedding)
        self._module = module
        self._rows = module.weight.shape[0]
        self._first = self._rows * rank
        module.padding_idx = None  # it matters for gradients alone, and may lie outside

    def install(self) -> None:
        """Replace the module's own lookup."""
        self._module.forward = self._forward  # type: ignore[method-assign, assignment]

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        own = ids - self._first
        outside = (own < 0) | (own >= self._rows)
        vectors = nn.functional.embedding(own.masked_fill(outside, 0), self._module.weight)
        vectors = vectors.masked_fill(outside[..., None], 0)
        dist.all_reduce(vectors)
        return vectors
