"""AutoGLM-Tiny with one technique each, by name, for the ablation table. `baseline` is the model itself.

Every variant takes the processor's inputs and is trained like the model. Where a technique has new parameters, they start so
that the variant begins at, or near, the trained model.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from autoglm_serving.vision.modules.alignment import Alignment, Bilinear, Deformable, Pointwise
from autoglm_serving.vision.modules.attention import Cbam, ChannelAttention, ReceptiveField, SpatialAttention
from autoglm_serving.vision.modules.crop import CropRule
from autoglm_serving.vision.modules.fused_tower import FusedTower, Place, Plan
from autoglm_serving.vision.modules.fusion import (
    ChannelConcat,
    Concat,
    CrossTileAttention,
    EntropyWeighted,
    FeaturePyramid,
    Fusion,
    GatedQueries,
    LearnedWeights,
    SqueezeExcitation,
)
from autoglm_serving.vision.modules.look import LookByQuestion, look_by_tower
from autoglm_serving.vision.modules.pictures import Model
from autoglm_serving.vision.modules.positions import DynamicNormalisation, GridMethod
from autoglm_serving.vision.modules.sources import Scales, Source, Tiles, TilesByEdge
from autoglm_serving.vision.modules.tower import Positions
from autoglm_serving.vision.modules.variant import Baseline, CroppedVariant, FusedVariant, Variant

FusionName = Literal["concat", "channels", "weights", "se", "entropy", "pyramid", "cross", "queries"]
AlignmentName = Literal["bilinear", "pointwise", "deformable"]
AttentionName = Literal["channel", "spatial", "cbam", "receptive"]


@dataclass(frozen=True)
class Options:
    """What an ablation may set for all variants."""

    trained_pixels: int | None = None
    """Longest side, in pixels, of the pictures in training, for scaled rotary positions; None: the learned grid's side."""
    query_grid: tuple[int, int] = (12, 6)
    """Rows and columns of learnable queries: 72 image tokens, upright like a phone."""
    crop: CropRule = field(default_factory=CropRule)


@dataclass(frozen=True)
class Recipe:
    """One row of the ablation table."""

    source: Source = field(default_factory=Tiles)
    fusion: FusionName = "concat"
    place: Place = "late"
    alignment: AlignmentName = "bilinear"
    attention: AttentionName | None = None
    grid: GridMethod = "bicubic"
    scaled_rope: bool = False
    normalise: bool = False
    padded: bool = False
    crop: Literal["tower", "question"] | None = None


_FOUR = Tiles(2, 2)
_NINE = Tiles(3, 3)
_STRIPS = Tiles(4, 1)
_HALF = Scales((0.5,))

VARIANTS: dict[str, Recipe | None] = {
    "baseline": None,
    # Tiles: each sees only itself until they are fused.
    "tiles-2x2-concat": Recipe(_FOUR),
    "tiles-3x3-concat": Recipe(_NINE),
    "tiles-4x1-concat": Recipe(_STRIPS),
    "tiles-by-edge-concat": Recipe(TilesByEdge()),
    "tiles-2x2-concat-middle": Recipe(_FOUR, place="middle"),
    "tiles-2x2-concat-early": Recipe(_FOUR, place="early"),
    "tiles-2x2-cross": Recipe(_FOUR, "cross"),
    "tiles-2x2-cross-middle": Recipe(_FOUR, "cross", "middle"),
    "tiles-2x2-queries": Recipe(_FOUR, "queries"),
    "tiles-2x2-weights": Recipe(_FOUR, "weights"),
    "queries": Recipe(fusion="queries"),
    # Scales: the picture and its half, aligned and fused.
    "scales-channels": Recipe(_HALF, "channels"),
    "scales-weights": Recipe(_HALF, "weights"),
    "scales-weights-middle": Recipe(_HALF, "weights", "middle"),
    "scales-weights-early": Recipe(_HALF, "weights", "early"),
    "scales-se": Recipe(_HALF, "se"),
    "scales-entropy": Recipe(_HALF, "entropy"),
    "scales-pyramid": Recipe(_HALF, "pyramid"),
    "scales-cross": Recipe(_HALF, "cross"),
    "scales-weights-pointwise": Recipe(_HALF, "weights", alignment="pointwise"),
    "scales-weights-deformable": Recipe(_HALF, "weights", alignment="deformable"),
    # Attention blocks on the image tokens, as a map.
    "attention-channel": Recipe(attention="channel"),
    "attention-spatial": Recipe(attention="spatial"),
    "attention-cbam": Recipe(attention="cbam"),
    "attention-receptive": Recipe(attention="receptive"),
    # Positions and normalisation, for sizes that were never trained.
    "grid-bilinear": Recipe(grid="bilinear"),
    "grid-nearest": Recipe(grid="nearest"),
    "grid-clamp": Recipe(grid="clamp"),
    "rope-scaled": Recipe(scaled_rope=True),
    "dynamic-normalisation": Recipe(normalise=True),
    "padded": Recipe(padded=True),
    # Crops.
    "crop-tower": Recipe(crop="tower"),
    "crop-question": Recipe(crop="question"),
}
"""Row name -> recipe. None is the model as it is."""


def build_variant(name: str, model: Model, options: Options | None = None) -> Variant:
    """A variant around a copy of `model`; KeyError for a name not in `VARIANTS`.

    The copy's weights are the model's; new parameters are drawn from torch's generator.
    """
    recipe = VARIANTS[name]
    own = copy.deepcopy(model)
    if recipe is None:
        return Baseline(own)
    options = options or Options()
    if recipe.crop == "tower":
        return CroppedVariant(own, look_by_tower, options.crop)
    if recipe.crop == "question":
        look = LookByQuestion()
        # What the first look costs comes off what the crop may hold.
        rule = replace(options.crop, max_share=max(options.crop.max_share - look.share**2, 0.0))
        return CroppedVariant(own, look, rule)
    tower = build_tower(recipe, own, options)
    return FusedVariant(own, tower.to(own.device, own.dtype))


def build_tower(recipe: Recipe, model: Model, options: Options) -> FusedTower:
    """The recipe's tower for this model's sizes."""
    config = model.config.vision_config
    side = (options.trained_pixels or config.image_size) // config.patch_size
    channels = config.out_hidden_size if recipe.place == "late" else config.hidden_size
    plan = Plan(
        recipe.source,
        recipe.place,
        config.depth // 2,
        Positions(recipe.grid, side if recipe.scaled_rope else None),
        recipe.padded,
    )
    return FusedTower(
        plan,
        _fusion(recipe.fusion, channels, recipe.source, options),
        _ALIGNMENTS[recipe.alignment](channels),
        None if recipe.attention is None else _ATTENTION[recipe.attention](channels),
        DynamicNormalisation(config.in_channels) if recipe.normalise else None,
    )


def _fusion(name: FusionName, channels: int, source: Source, options: Options) -> Fusion:
    match name:
        case "concat":
            return Concat()
        case "channels":
            return ChannelConcat(channels, source.count)
        case "weights":
            return LearnedWeights(source.count)
        case "se":
            return SqueezeExcitation(channels)
        case "entropy":
            return EntropyWeighted()
        case "pyramid":
            return FeaturePyramid(channels, source.count)
        case "cross":
            return CrossTileAttention(channels)
        case "queries":
            return GatedQueries(channels, *options.query_grid)


_ALIGNMENTS: dict[AlignmentName, Callable[[int], Alignment]] = {
    "bilinear": lambda _: Bilinear(),
    "pointwise": Pointwise,
    "deformable": Deformable,
}
_ATTENTION: dict[AttentionName, Callable[[int], nn.Module]] = {
    "channel": ChannelAttention,
    "spatial": lambda _: SpatialAttention(),
    "cbam": Cbam,
    "receptive": ReceptiveField,
}
