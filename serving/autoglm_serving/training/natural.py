"""Pictures that are no screens: a linear probe on the frozen tower's features, at several sizes.

It tells whether what the study finds for screens is about screens alone. The pictures are scikit-learn's handwritten digits
(1,797 scans, 8 x 8 pixels, ten classes), which its package holds. A probe is ridge regression onto the classes: solved at once,
nothing to tune but one number, the same answer every time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from autoglm_serving.markdown import table
from autoglm_serving.training.intervals import Share, wilson
from autoglm_serving.training.replies import Replier

RIDGE = 1e-2
TRAIN_SHARE = 0.7

_HEAD = """# Pictures that are no screens: handwritten digits, {model}

Made by `{source}`. A ridge regression on frozen features, {fitted} % of the pictures to fit, the others to judge;
right answers with Wilson's 95 % interval. *Untrained*: the same tower with random weights.
"""


class NoPictures(RuntimeError):
    """The package that holds the pictures is not installed. The message says which."""


@dataclass(frozen=True)
class Pictures:
    """Grey pictures of one size, 0 to 255, and their classes."""

    grey: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Probed:
    """A probe at one size. `pixels`: the same probe on the pixels alone; `untrained`: on a tower with random weights."""

    side: int
    detail: int
    """Pixels of the side before the picture was enlarged to `side`: what there is to see."""
    image_tokens: int
    tower: Share
    untrained: Share
    pixels: Share


def digits() -> Pictures:
    """scikit-learn's digits. Raises NoPictures."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NoPictures("the pictures are in scikit-learn: install autoglm[natural]") from error
    found = load_digits()
    grey = np.clip(np.rint(found.images * (255 / 16)), 0, 255).astype(np.uint8)
    return Pictures(grey, found.target.astype(np.int64))


def probe(
    trained: Replier, untrained: Replier, pictures: Pictures, sides: Sequence[int], details: Sequence[int]
) -> Iterator[Probed]:
    """A probe for each size at full detail, and for each lower detail at the last size."""
    full = pictures.grey.shape[1]
    for side, detail in [*((side, full) for side in sides), *((sides[-1], detail) for detail in details)]:
        shown = [_shown(each, detail, side) for each in pictures.grey]
        features = [_features(each, shown) for each in (trained, untrained)]
        raw = np.stack([np.asarray(each.convert("L").resize((detail, detail))).ravel() for each in shown]) / 255
        yield Probed(
            side=side,
            detail=detail,
            image_tokens=trained.tokens(shown[0], None),
            tower=_share(features[0], pictures.labels),
            untrained=_share(features[1], pictures.labels),
            pixels=_share(torch.from_numpy(raw).double(), pictures.labels),
        )


def markdown(rows: Sequence[Probed], model: str, source: str) -> str:
    """The page."""
    columns = ["shown at", "detail", "image tokens", "trained tower", "untrained tower", "pixels alone"]
    sizes = [[f"{row.side} px", f"{row.detail} px", str(row.image_tokens)] for row in rows]
    shares = [[_cell(row.tower), _cell(row.untrained), _cell(row.pixels)] for row in rows]
    head = _HEAD.format(model=model, source=source, fitted=f"{100 * TRAIN_SHARE:.0f}")
    lines = [[*size, *share] for size, share in zip(sizes, shares, strict=True)]
    return f"{head}\n{table(columns, lines, 'rrrlll')}\n"


def write(out: Path, rows: Sequence[Probed], model: str, source: str) -> str:
    """Write the page; returns it."""
    out.mkdir(parents=True, exist_ok=True)
    page = markdown(rows, model, source)
    (out / "natural.md").write_text(page, encoding="utf-8")
    return page


def _shown(grey: NDArray[np.uint8], detail: int, side: int) -> Image.Image:
    small = Image.fromarray(grey).resize((detail, detail), Image.Resampling.BOX)
    return small.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")


@torch.inference_mode()
def _features(replier: Replier, shown: Sequence[Image.Image]) -> torch.Tensor:
    """[pictures, 2 * width]: mean and maximum of a picture's tokens."""
    found = []
    for picture in shown:
        tokens = replier.see(*replier.pixels(picture, None)).tokens.double().cpu()
        found.append(torch.cat((tokens.mean(0), tokens.amax(0))))
    return torch.stack(found)


def _share(features: torch.Tensor, labels: NDArray[np.int64]) -> Share:
    """Fit on the first part, judge on the rest. Columns are scaled by what the first part has."""
    first = round(TRAIN_SHARE * len(labels))
    mean, spread = features[:first].mean(0), features[:first].std(0).clamp(min=1e-6)
    scaled = torch.cat(((features - mean) / spread, torch.ones(len(features), 1, dtype=features.dtype)), 1)
    wanted = torch.nn.functional.one_hot(torch.from_numpy(labels)).double()
    fit = scaled[:first]
    penalty = RIDGE * first * torch.eye(fit.shape[1], dtype=fit.dtype)
    weights = torch.linalg.solve(fit.T @ fit + penalty, fit.T @ wanted[:first])
    said = (scaled[first:] @ weights).argmax(1).numpy()
    return wilson(int((said == labels[first:]).sum()), len(labels) - first)


def _cell(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
