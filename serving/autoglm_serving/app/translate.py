"""From a checked chat request to a call: images are checked by their headers here, and decoded by the replica."""

import base64
import binascii

from autoglm_serving.app.calls import Call, EncodedImage, Turn
from autoglm_serving.config import Limits
from autoglm_serving.engines.interface import TextPart
from autoglm_serving.headers import MAX_PIXELS, TENANT
from autoglm_serving.images import check_size, read_size
from autoglm_serving.protocol import ChatRequest, ImageContent, TextContent
from autoglm_serving.replica_routing.footprint import Footprint, ImagePiece, TextPiece, footprint, image_name
from autoglm_serving.vision.sizing import MAX_PIXELS as MODEL_PIXELS
from autoglm_serving.vision.sizing import image_tokens
from autoglm_serving.wire import api_error

MAX_TENANT = 256
TOTAL_PIXELS_FACTOR = 2
"""All images of one request together may have this many times the pixels that one may have."""


def to_call(request: ChatRequest, request_id: str, max_pixels: int | None, limits: Limits, tenant: str = "") -> Call:
    """The call for a request of this tenant; raises ApiError when an image must not be decoded."""
    turns = tuple(
        Turn(
            message.role,
            tuple(
                _part(part, f"messages[{index}].content[{place}].image_url.url", limits)
                for place, part in enumerate(message.content)
            ),
        )
        for index, message in enumerate(request.messages)
    )
    _check_total(turns, limits)
    new_tokens = request.new_tokens(limits.max_new_tokens)
    return Call(
        request_id=request_id,
        turns=turns,
        max_new_tokens=new_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        frequency_penalty=request.frequency_penalty,
        stop=request.stop,
        seed=request.seed,
        max_pixels=max_pixels,
        footprint=_footprint(turns, max_pixels, new_tokens, tenant),
        tenant=tenant,
        streamed=request.stream,
    )


def read_tenant(value: str | None) -> str:
    """The tenant of this request, from the gateway's header; "" where nobody says."""
    if value is None:
        return ""
    if not 0 < len(value) <= MAX_TENANT:
        raise api_error("invalid_request", f"{TENANT} must have 1 to {MAX_TENANT} characters", TENANT)
    return value


def read_max_pixels(value: str | None) -> int | None:
    """The gateway's pixel limit for this request, from its header."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 12 and int(value) > 0):
        raise api_error("invalid_request", f"{MAX_PIXELS} must be a number of pixels", MAX_PIXELS)
    return int(value)


def _footprint(turns: tuple[Turn, ...], max_pixels: int | None, new_tokens: int, tenant: str) -> Footprint:
    """Computed here, once for a call: images are large, and both the router and the replica need their names."""
    bound = min(max_pixels or MODEL_PIXELS, MODEL_PIXELS)
    pieces = [
        TextPiece(turn.role, part.text)
        if isinstance(part, TextPart)
        else ImagePiece(
            turn.role, image_name(part.data, tenant), image_tokens(part.size.width, part.size.height, bound)
        )
        for turn in turns
        for part in turn.parts
    ]
    return footprint(pieces, new_tokens, tenant)


def _part(part: TextContent | ImageContent, param: str, limits: Limits) -> TextPart | EncodedImage:
    if isinstance(part, TextContent):
        return TextPart(part.text)
    url = part.image_url.url
    size = read_size(url, param)
    check_size(size, limits, param)
    return EncodedImage(_payload(url, param), size, param)


def _payload(url: str, param: str) -> bytes:
    """The image's bytes. Line breaks in the base64 text and missing padding are forgiven."""
    text = url[url.index(",") + 1 :]
    if not text.isascii():
        raise api_error("invalid_image", "the image's base64 text is broken", param)
    text = "".join(text.split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise api_error("invalid_image", "the image's base64 text is broken", param) from None


def _check_total(turns: tuple[Turn, ...], limits: Limits) -> None:
    pixels = sum(part.size.pixels for turn in turns for part in turn.parts if isinstance(part, EncodedImage))
    allowed = limits.max_image_pixels * TOTAL_PIXELS_FACTOR
    if pixels > allowed:
        raise api_error(
            "image_too_large",
            f"the images have {pixels} pixels together: at most {allowed} are allowed in one request",
            "messages",
        )
