"""A model as a runner uses it: whole, or one rank's part of a gang's, with the prefixes that lie beside it."""

from dataclasses import dataclass

import torch
from transformers import Glm4vForConditionalGeneration

from autoglm_serving.engines.gang.seat import Seat
from autoglm_serving.engines.options import TransformersOptions
from autoglm_serving.engines.sharded_model import load_shard, plan_for
from autoglm_serving.engines.shared_cache import MIB
from autoglm_serving.engines.transformers_prefixes import Prefixes
from autoglm_serving.engines.vision_tower import dtype
from autoglm_serving.model.folder import ModelFolder


@dataclass
class Part:
    """What one process holds. `key_value_heads` are those that it keeps keys and values of."""

    model: Glm4vForConditionalGeneration
    device: torch.device
    key_value_heads: int
    prefixes: Prefixes


def load_part(folder: ModelFolder, options: TransformersOptions, seat: Seat) -> Part:
    """Read the rank's part; raises EngineOptionsInvalid or ModelInvalid. Computes nothing."""
    torch.set_num_threads(options.threads)
    device = seat.device(options.device)
    plan = plan_for(folder, seat.ranks)
    model = load_shard(folder, plan, seat.rank, dtype(options.dtype, device), device)
    return Part(model, device, plan.key_value_heads, Prefixes(options.prefix_cache_mib * MIB, options.prefix_block))
