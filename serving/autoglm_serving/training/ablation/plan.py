"""Which techniques the ablation table measures, in which order, and what each is compared with."""

from dataclasses import dataclass
from typing import Literal

Data = Literal["screens", "beyond", "small", "sessions", "changed"]
"""screens: the test screens at the main size. beyond: the same at a size that training never had. small: at half the main
size. sessions: screens that follow each other. changed: only the tasks of those whose target lies in what changed."""

PLAIN, BEYOND, SMALL = "baseline", "baseline, beyond", "baseline, small"
SESSIONS, CHANGED = "baseline, sessions", "baseline, changed part"
REFERENCES: dict[Data, str] = {
    "screens": PLAIN,
    "beyond": BEYOND,
    "small": SMALL,
    "sessions": SESSIONS,
    "changed": CHANGED,
}


@dataclass(frozen=True)
class Technique:
    """One row. `way` names what is done: a variant of `VARIANTS`, or a way of its own."""

    group: int
    name: str
    way: str
    data: Data = "screens"
    note: str = ""

    @property
    def against(self) -> str:
        return REFERENCES[self.data]


def _variants(group: int, data: Data, *names: str) -> list[Technique]:
    return [Technique(group, name if data == "screens" else f"{name}, {data}", name, data) for name in names]


TECHNIQUES: tuple[Technique, ...] = (
    Technique(1, PLAIN, "plain", note="the model as it is, each picture in its own shape"),
    Technique(1, "stretched", "stretched", note="all screens in one square frame of as many tokens"),
    Technique(1, "padded frame", "padded-frame", note="resize_with_pad into the same frame, taps mapped back exactly"),
    *_variants(1, "screens", "dynamic-normalisation"),
    *_variants(2, "screens", "tiles-2x2-concat", "tiles-3x3-concat", "tiles-4x1-concat", "tiles-by-edge-concat"),
    *_variants(2, "screens", "tiles-2x2-concat-middle", "tiles-2x2-concat-early"),
    Technique(2, "content-aware tokens", "detailed", note="tokens without detail are dropped, the tower sees all"),
    Technique(2, "stitched", "stitched", note="the screen joined from two overlapping halves"),
    *_variants(3, "screens", "tiles-2x2-cross", "tiles-2x2-cross-middle", "tiles-2x2-queries", "tiles-2x2-weights"),
    *_variants(3, "screens", "queries", "scales-channels", "scales-weights", "scales-weights-middle"),
    *_variants(3, "screens", "scales-weights-early", "scales-se", "scales-entropy", "scales-pyramid", "scales-cross"),
    *_variants(3, "screens", "scales-weights-pointwise", "scales-weights-deformable"),
    *_variants(3, "screens", "attention-channel", "attention-spatial", "attention-cbam", "attention-receptive"),
    *_variants(4, "screens", "padded"),
    Technique(4, BEYOND, "plain", "beyond", "the model as it is at a size that training never had"),
    *_variants(4, "beyond", "grid-bilinear", "grid-nearest", "grid-clamp", "rope-scaled", "dynamic-normalisation"),
    *_variants(5, "screens", "crop-tower", "crop-question"),
    Technique(5, "zoom", "zoom", note="a second, closer look at the place that the question's attention points to"),
    Technique(
        5,
        "zoom, small first look",
        "zoom-small",
        note="a first look of two thirds the size, and a smaller part",
    ),
    Technique(6, SMALL, "plain", "small", "as a picture of half the size is seen"),
    Technique(6, "enlarged, small", "enlarged", "small", "brought up to the main size first (super-resolution)"),
    Technique(5, SESSIONS, "plain", "sessions", "whole screens of sessions"),
    Technique(5, "region by flow", "changed", "sessions", "only what changed since the last screen is seen"),
    Technique(5, CHANGED, "plain", "changed", "whole screens, tasks about what changed"),
    Technique(5, "region by flow, changed part", "changed", "changed", "what changed, tasks about it"),
)
"""Every technique that is run; dynamic resolution, early exit and down-sampling follow from the resolution study's answers."""

CHOSEN = {each.name: each for each in TECHNIQUES}


def chosen(names: str | None) -> tuple[Technique, ...]:
    """The techniques whose names start with one of a comma-separated list, and the rows that they are compared with.

    Raises KeyError with the first word that names none.
    """
    if names is None:
        return TECHNIQUES
    words = [word.strip() for word in names.split(",") if word.strip()]
    for word in words:
        if not any(each.name.startswith(word) for each in TECHNIQUES):
            raise KeyError(word)
    wanted = {each.name for each in TECHNIQUES if any(each.name.startswith(word) for word in words)}
    wanted |= {CHOSEN[name].against for name in wanted}
    return tuple(each for each in TECHNIQUES if each.name in wanted)
