"""Pictures that are sent again, between the decoder and the engine."""

import pytest
from PIL import Image

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.app.decoded_cache import DecodedCache
from autoglm_serving.app.translate import to_call
from autoglm_serving.config import Limits
from autoglm_serving.engines.interface import ImagePart
from autoglm_serving.images import ImageSize
from autoglm_serving.protocol import ChatRequest
from autoglm_serving.wire import ApiError, api_error
from support.pictures import data_url, picture
from support.serving import MODEL, serving


class CountingDecoder:
    """Makes a picture of the claimed size; b"damaged" is refused."""

    def __init__(self) -> None:
        self.decoded: list[bytes] = []

    async def decode(self, image: EncodedImage) -> Image.Image:
        self.decoded.append(image.data)
        if image.data == b"damaged":
            raise api_error("invalid_image", "the image is damaged", image.param)
        return Image.new("RGB", (image.size.width, image.size.height))


def sent(data: bytes, width: int = 10) -> EncodedImage:
    return EncodedImage(data, ImageSize(width, 10, "png"), "messages[0]")


async def test_a_picture_that_comes_again_is_decoded_once_and_has_the_same_key() -> None:
    decoder = CountingDecoder()
    cache = DecodedCache(decoder, 1000)
    first, again = await cache.part(sent(b"a"), "t"), await cache.part(sent(b"a"), "t")
    assert first == again
    assert decoder.decoded == [b"a"]
    assert (cache.figures.hits, cache.figures.misses) == (1, 1)


async def test_another_tenant_and_another_picture_have_other_keys() -> None:
    decoder = CountingDecoder()
    cache = DecodedCache(decoder, 10_000)
    keys = {(await cache.part(sent(data), tenant)).key for data in (b"a", b"b") for tenant in ("", "t", "u")}
    assert len(keys) == 6
    assert len(decoder.decoded) == 6


async def test_a_picture_that_claims_another_size_is_looked_at_again() -> None:
    decoder = CountingDecoder()
    cache = DecodedCache(decoder, 1000)
    await cache.part(sent(b"a"), "")
    await cache.part(sent(b"a", width=5), "")
    assert len(decoder.decoded) == 2


async def test_a_refused_picture_is_refused_every_time() -> None:
    decoder = CountingDecoder()
    cache = DecodedCache(decoder, 1000)
    for _ in range(2):
        with pytest.raises(ApiError, match="damaged"):
            await cache.part(sent(b"damaged"), "")
    assert len(decoder.decoded) == 2
    assert cache.figures.entries == 0


async def test_the_cache_keeps_within_its_bytes_and_a_capacity_of_nothing_keeps_nothing() -> None:
    for capacity, kept in ((650, 2), (0, 0)):
        cache = DecodedCache(CountingDecoder(), capacity)
        for number in range(5):
            await cache.part(sent(bytes([number])), "")
            assert cache.figures.held_bytes <= capacity
        assert cache.figures.entries == kept


async def test_the_gateway_says_whose_caches_a_request_uses() -> None:
    image = {"type": "image_url", "image_url": {"url": data_url(picture(60, 120))}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [image]}]}
    async with serving() as (http, parts):
        for headers in ({}, {"x-autoglm-tenant": "a"}, {"x-autoglm-tenant": "a"}):
            assert (await http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        refused = await http.post("/v1/chat/completions", json=body, headers={"x-autoglm-tenant": "x" * 300})
    assert refused.status_code == 400
    requests = parts.engines[0].started
    assert [request.tenant for request in requests] == ["", "a", "a"]
    parts_of = [request.messages[0].parts[0] for request in requests]
    keys = [part.key for part in parts_of if isinstance(part, ImagePart)]
    assert keys[0] != keys[1] == keys[2] != ""


def test_a_call_carries_its_tenant_and_its_footprint_shares_no_name_with_anothers() -> None:
    image = {"type": "image_url", "image_url": {"url": data_url(picture(60, 120))}}
    content = [image, {"type": "text", "text": "the same question"}]
    chat = ChatRequest.model_validate({"model": MODEL, "messages": [{"role": "user", "content": content}]})
    calls = [to_call(chat, "r", None, Limits(), tenant) for tenant in ("", "a", "b", "b")]
    assert [call.tenant for call in calls] == ["", "a", "b", "b"]
    names = [{name for block in call.footprint.blocks for name in (block.key, block.image)} - {None} for call in calls]
    assert names[2] == names[3]
    assert len(set.union(*names)) == 3 * len(names[0]) == 9
