"""Fusion of tiles and scales: a common interface and seven ways."""

from autoglm_serving.vision.modules.fusion.base import Fusion
from autoglm_serving.vision.modules.fusion.concat import ChannelConcat, Concat
from autoglm_serving.vision.modules.fusion.cross_tile import CrossTileAttention
from autoglm_serving.vision.modules.fusion.pyramid import FeaturePyramid
from autoglm_serving.vision.modules.fusion.queries import GatedQueries
from autoglm_serving.vision.modules.fusion.weighted import EntropyWeighted, LearnedWeights, SqueezeExcitation

__all__ = [
    "ChannelConcat",
    "Concat",
    "CrossTileAttention",
    "EntropyWeighted",
    "FeaturePyramid",
    "Fusion",
    "GatedQueries",
    "LearnedWeights",
    "SqueezeExcitation",
]
