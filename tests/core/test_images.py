"""Sizes are read from header bytes alone, and no header can make the reader fail in another way than ApiError."""

import base64
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoglm_serving.config import Limits
from autoglm_serving.images import ImageSize, check_size, read_size
from autoglm_serving.wire import ApiError

FORMATS = ("png", "jpeg", "webp", "gif")


def encoded(kind: str, width: int = 321, height: int = 123, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, kind.upper(), **options)
    return out.getvalue()


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def refused(data_url: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_size(data_url, "messages[0].content[0].image_url")
    assert caught.value.param == "messages[0].content[0].image_url"
    return caught.value


def outcome(data_url: str) -> tuple[ImageSize | None, str | None]:
    """The size, or the code of the refusal. Anything else fails the test."""
    try:
        return read_size(data_url), None
    except ApiError as error:
        return None, error.code


@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_of_every_format_is_read(kind: str) -> None:
    assert read_size(url(encoded(kind))) == ImageSize(321, 123, kind)  # type: ignore[arg-type]


def test_lossless_and_extended_webp_are_read() -> None:
    assert read_size(url(encoded("webp", lossless=True))) == ImageSize(321, 123, "webp")
    assert read_size(url(encoded("webp", exif=b"Exif\x00\x00" + b"x" * 50))) == ImageSize(321, 123, "webp")


def test_metadata_longer_than_the_first_4_kb_is_stepped_over() -> None:
    assert read_size(url(encoded("jpeg", icc_profile=b"x" * 300_000))) == ImageSize(321, 123, "jpeg")
    assert read_size(url(encoded("gif", comment=b"x" * 20_000))) == ImageSize(321, 123, "gif")


def test_only_the_header_is_looked_at() -> None:
    """A PNG that says 60000x60000 with nothing behind its header costs nothing and is refused with the limit."""
    data = bytearray(encoded("png"))[:33]
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    size = read_size(url(bytes(data)))
    assert (size.width, size.height) == (60_000, 60_000)
    with pytest.raises(ApiError) as caught:
        check_size(size, Limits())
    assert (caught.value.status, caught.value.code) == (413, "image_too_large")
    assert "60000x60000" in caught.value.message
    assert str(Limits().max_image_side) in caught.value.message


def test_a_gif_frame_larger_than_its_screen_counts() -> None:
    data = bytearray(encoded("gif", 10, 10))
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = (50_000).to_bytes(2, "little") * 2
    assert read_size(url(bytes(data))) == ImageSize(50_000, 50_000, "gif")


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (ImageSize(16_385, 10, "png"), "image_too_large"),
        (ImageSize(10_000, 5_001, "png"), "image_too_large"),
        (ImageSize(4020, 20, "png"), "invalid_image"),
    ],
)
def test_sizes_over_a_limit_are_refused(size: ImageSize, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_size(size, Limits())
    assert caught.value.code == code


def test_sizes_at_the_limits_pass() -> None:
    for size in (ImageSize(10_000, 5_000, "png"), ImageSize(16_384, 3_000, "png"), ImageSize(4000, 20, "png")):
        check_size(size, Limits())


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "data:image/png;base64,",
        "data:image/png,raw",
        "data:text/html;base64,PGI+",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "//host/x.png",
        "data:image/png;base64,@@@@",
        "data:image/png;base64,\u4f60\u597d",
        "data:image/png;base64," + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 3).decode(),
        "data:image/png;base64," + base64.b64encode(b"%PDF-1.7 and so on and on").decode(),
    ],
)
def test_what_is_no_image_in_the_request_is_refused(bad: str) -> None:
    error = refused(bad)
    assert (error.status, error.code) == (400, "invalid_image")


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_without_pixels_is_refused(kind: str) -> None:
    empty = {
        "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(8) + b"\x08\x02\x00\x00\x00" + bytes(4),
        "jpeg": b"\xff\xd8\xff\xc0\x00\x11\x08" + bytes(4) + b"\x03" + bytes(9),
        "gif": b"GIF89a" + bytes(7) + b"\x2c" + bytes(9),
        "webp": b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(7) + b"\x9d\x01\x2a" + bytes(4),
    }[kind]
    assert refused(url(empty)).code == "invalid_image"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_of_a_header_is_refused_or_read_right(kind: str) -> None:
    data = encoded(kind)
    reads = 0
    for length in range(1, min(len(data), 900)):
        size, code = outcome(url(data[:length]))
        if size is None:
            assert code == "invalid_image"
        else:
            reads += 1
            assert (size.width, size.height) == (321, 123)
    assert reads > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_ten_thousand_mutated_headers_end_in_a_size_or_in_api_error(kind: str) -> None:
    source, dice = encoded(kind)[:400], random.Random(kind)
    sizes = errors = 0
    for _ in range(10_000):
        data = bytearray(source)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            size = read_size(url(bytes(data)))
        except ApiError:
            errors += 1
        else:
            sizes += 1
            assert size.width > 0
            assert size.height > 0
    assert min(sizes, errors) > 100


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP", b"GIF89a"])
)
@settings(max_examples=500)
def test_any_bytes_end_in_a_size_or_in_api_error(tail: bytes, head: bytes) -> None:
    assert outcome(url(head + tail))[1] in (None, "invalid_image")


@given(st.text(max_size=200))
def test_any_text_ends_in_api_error_or_in_a_size(text: str) -> None:
    for candidate in (text, "data:image/png;base64," + text):
        assert outcome(candidate)[1] in (None, "invalid_image")


def test_endless_blocks_are_given_up() -> None:
    """Metadata blocks without end cost a bounded walk, not one over the whole body."""
    assert refused(url(b"\xff\xd8" + b"\xff\xe1\x00\x02" * 100_000)).code == "invalid_image"
    assert refused(url(b"GIF89a" + bytes(7) + b"\x21\xfe\x00" * 100_000)).code == "invalid_image"
    assert refused(url(b"GIF89a" + bytes(7) + b"\x21\xfe" + b"\x01x" * 100_000)).code == "invalid_image"


def test_base64_with_line_breaks_is_read() -> None:
    text = base64.encodebytes(encoded("png")).decode()
    assert read_size("data:image/png;base64," + text) == ImageSize(321, 123, "png")
