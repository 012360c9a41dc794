"""Width, height and format of an image in a data URL, without decoding the image.

A 109 KB PNG can cost 5 GB to decode, so a size is read from header bytes and checked first. PNG and WebP say it in their
first 30 bytes. JPEG and GIF may put metadata of any length before it: those are walked block by block, decoding only the
base64 around each block's header, so that the cost depends on the number of blocks (bounded) and never on the image.

A header can lie: who decodes an image must check the size that the decoder reports against the same limits.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

from autoglm_serving.config import Limits
from autoglm_serving.wire import ApiError, api_error

ImageFormat = Literal["png", "jpeg", "webp", "gif"]

MAX_ASPECT_RATIO = 200
"""The model's image processor refuses more (transformers `glm4v`, smart_resize)."""

_PREFIX_CHARACTERS = 4096
_MAX_BLOCKS = 256
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_SPACE = re.compile(r"\s")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}
_EXPECTED = "expected a PNG, JPEG, WebP or GIF image as a data URL: data:image/png;base64,..."


@dataclass(frozen=True)
class ImageSize:
    """What the header of an image says; sides in pixels."""

    width: int
    height: int
    format: ImageFormat

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)


def read_size(data_url: str, param: str | None = None) -> ImageSize:
    """Read the size from a data URL's image header.

    Raises ApiError `invalid_image` when it is no such image. `param` names the place in the request for the message.
    """
    source = _Base64(_payload(data_url, param), param)
    size = _read(source)
    if size is None:
        raise api_error("invalid_image", f"the image cannot be read: {_EXPECTED}", param)
    if size.width < 1 or size.height < 1:
        raise api_error("invalid_image", "the image has no pixels", param)
    return size


def check_size(size: ImageSize, limits: Limits, param: str | None = None) -> None:
    """Raise ApiError `image_too_large` or `invalid_image` when an image must not be decoded."""
    shown = f"the image is {size.width}x{size.height}"
    if max(size.width, size.height) > limits.max_image_side:
        raise api_error("image_too_large", f"{shown}: a side may have at most {limits.max_image_side} pixels", param)
    if size.pixels > limits.max_image_pixels:
        raise api_error("image_too_large", f"{shown}: at most {limits.max_image_pixels} pixels are allowed", param)
    if max(size.width, size.height) > MAX_ASPECT_RATIO * size.short_side:
        raise api_error("invalid_image", f"{shown}: one side is more than {MAX_ASPECT_RATIO} times the other", param)


def _payload(data_url: str, param: str | None) -> str:
    match = _DATA_URL.match(data_url[:64])
    if match is None:
        raise api_error("invalid_image", f"only images inside the request are read: {_EXPECTED}", param)
    payload = data_url[match.end() :]
    if not payload:
        raise api_error("invalid_image", "the image is empty (0 bytes)", param)
    if _SPACE.search(payload[:_PREFIX_CHARACTERS]):
        payload = _SPACE.sub("", payload)
    return payload


class _Base64:
    """Random access to base64 text, decoding only what is asked for."""

    def __init__(self, text: str, param: str | None) -> None:
        self._text = text
        self._param = param
        self._head = self._decode(text[:_PREFIX_CHARACTERS])

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer at the end."""
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        first = offset // 3
        last = (offset + length + 2) // 3
        chunk = self._decode(self._text[first * 4 : last * 4])
        start = offset - first * 3
        return chunk[start : start + length]

    def _decode(self, text: str) -> bytes:
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._broken() from error

    def _broken(self) -> ApiError:
        return api_error("invalid_image", "the image's base64 text is broken", self._param)


def _read(source: _Base64) -> ImageSize | None:
    head = source.read(0, 12)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(source.read(0, 24))
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(source)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(source.read(0, 30))
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _gif(source)
    return None


def _png(head: bytes) -> ImageSize | None:
    if len(head) < 24 or head[12:16] != b"IHDR":
        return None
    return ImageSize(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big"), "png")


def _jpeg(source: _Base64) -> ImageSize | None:
    """Walk the segments to the frame header; EXIF, ICC and thumbnails before it are stepped over."""
    offset = 2
    for _ in range(_MAX_BLOCKS):
        segment = source.read(offset, 9)
        if len(segment) < 2 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _JPEG_BARE:
            offset += 2
        elif marker in _JPEG_FRAMES:
            if len(segment) < 9:
                return None
            height, width = int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[7:9], "big")
            return ImageSize(width, height, "jpeg")
        else:
            length = int.from_bytes(segment[2:4], "big")
            if len(segment) < 4 or length < 2 or marker in (0xD9, 0xDA):
                return None
            offset += 2 + length
    return None


def _webp(head: bytes) -> ImageSize | None:
    if len(head) < 30:
        return None
    match head[12:16]:
        case b"VP8 ":
            if head[23:26] != b"\x9d\x01\x2a":
                return None
            width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
            return ImageSize(width, height, "webp")
        case b"VP8L":
            if head[20] != 0x2F:
                return None
            bits = int.from_bytes(head[21:25], "little")
            return ImageSize((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1, "webp")
        case b"VP8X":
            width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
            return ImageSize(width, height, "webp")
        case _:
            return None


def _gif(source: _Base64) -> ImageSize | None:
    """The larger of the screen and of the first frame: decoders enlarge the screen to hold the frame."""
    head = source.read(0, 13)
    if len(head) < 13:
        return None
    width, height = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    offset = 13 + _gif_colours(head[10])
    for _ in range(_MAX_BLOCKS):
        block = source.read(offset, 10)
        match block[:1]:
            case b"\x2c":
                if len(block) < 10:
                    return None
                left, top, wide, high = (int.from_bytes(block[at : at + 2], "little") for at in (1, 3, 5, 7))
                return ImageSize(max(width, left + wide), max(height, top + high), "gif")
            case b"\x21":
                after = _gif_blocks_end(source, offset + 2)
                if after is None:
                    return None
                offset = after
            case _:
                return None
    return None


def _gif_colours(flags: int) -> int:
    return 3 * (2 << (flags & 0x07)) if flags & 0x80 else 0


def _gif_blocks_end(source: _Base64, offset: int) -> int | None:
    for _ in range(_MAX_BLOCKS):
        length = source.read(offset, 1)
        if not length:
            return None
        offset += 1 + length[0]
        if length[0] == 0:
            return offset
    return None
