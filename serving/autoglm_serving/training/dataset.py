"""Screens on disk: the manifest, and pictures of windows at the size that the model sees."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from autoglm_serving.screens.records import Screen, read_manifest
from autoglm_serving.training.windows import Window
from autoglm_serving.vision.sizing import at_short_side


class DatasetInvalid(ValueError):
    """The folder is no set of screens. The message says what is missing."""


@dataclass
class Screens:
    """All screens of a folder. Decoded pictures are kept up to `cache_bytes`, the least used go first.

    `side` bounds the short side of what is kept: a training run that never looks closer needs no more.
    """

    folder: Path
    items: tuple[Screen, ...]
    cache_bytes: int = 1 << 30
    side: int | None = None
    _cache: "OrderedDict[str, Image.Image]" = field(default_factory=OrderedDict)
    held_bytes: int = 0

    def picture(self, screen: Screen, window: Window) -> Image.Image:
        """What the window shows, in the model's size."""
        image = self.decoded(screen)
        across, along = image.width / screen.width, image.height / screen.height
        left, top, right, bottom = window.box
        area = (left * across, top * along, min(right * across, image.width), min(bottom * along, image.height))
        return image.resize((window.width, window.height), Image.Resampling.BICUBIC, box=area)

    def decoded(self, screen: Screen) -> Image.Image:
        """The whole picture, with its short side brought down to `side` if there is one."""
        kept = self._cache.get(screen.id)
        if kept is not None:
            self._cache.move_to_end(screen.id)
            return kept
        try:
            with Image.open(self.folder / screen.image) as opened:
                image = opened.convert("RGB")
        except OSError as error:
            raise DatasetInvalid(f"the picture of screen {screen.id} cannot be read: {error}") from error
        if image.size != (screen.width, screen.height):
            raise DatasetInvalid(
                f"{screen.image} has {image.size} pixels, its manifest says {screen.width}x{screen.height}"
            )
        if self.side is not None:
            image = image.resize(at_short_side(*image.size, self.side), Image.Resampling.BICUBIC, reducing_gap=2.0)
        self._keep(screen.id, image)
        return image

    def _keep(self, name: str, image: Image.Image) -> None:
        self._cache[name] = image
        self.held_bytes += _bytes(image)
        while self.held_bytes > self.cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self.held_bytes -= _bytes(dropped)


def open_screens(folder: Path, cache_bytes: int = 1 << 30, side: int | None = None) -> Screens:
    """Read the folder's manifest. Raises DatasetInvalid when there is none, or when it is broken or empty."""
    path = folder / "manifest.jsonl"
    try:
        with path.open(encoding="utf-8") as lines:
            items = tuple(read_manifest(lines))
    except FileNotFoundError as error:
        raise DatasetInvalid(f"{path} is missing: make screens there first") from error
    except ValueError as error:
        raise DatasetInvalid(f"{path}: {error}") from error
    if not items:
        raise DatasetInvalid(f"{path} has no screens")
    return Screens(folder, items, cache_bytes, side)


def _bytes(image: Image.Image) -> int:
    return 3 * image.width * image.height
