"""Pictures for tests: whole, damaged, and dangerous ones."""

import base64
import gzip
import io
import random
import struct
import zlib

from PIL import Image


def picture(width: int = 60, height: int = 120, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A real image with some detail."""
    image = Image.linear_gradient("L").resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """The image as clients send it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing: the start of a decompression bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def png_bomb(side: int) -> bytes:
    """A valid PNG of side x side pixels, all black, that is a thousand times smaller than its pixels."""
    compressor = zlib.compressobj(9)
    row = b"\0" * (1 + (side + 7) // 8)
    body = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def animation(kind: str, frames: int) -> bytes:
    """An animated image: decoders that read all frames pay for each."""
    pictures = [Image.new("RGB", (64, 64), (index % 256, index // 256, 0)) for index in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], duration=10)
    return buffer.getvalue()


def bombs() -> dict[str, bytes]:
    """Images that cost far more than they weigh, or that a decoder with too many formats would open."""
    return {
        "12k squared": png_bomb(12_000),
        "30k squared": png_bomb(30_000),
        "60k squared by its header": png_header(60_000, 60_000),
        "65535 x 1": png_header(65_535, 1),
        "4 billion wide": png_header(2**32 - 1, 1),
        "fits in gzip": gzip.compress(b"SIMPLE  =                    T" + b" " * 100_000),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n%%EndComments\nshowpage\n",
        "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 200,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9999' height='9999'/>",
        "tiff": b"II*\0\x08\0\0\0" + b"\0" * 100,
        "bmp": b"BM" + b"\xff" * 60,
        "html": b"<html><script>fetch('http://127.0.0.1/')</script>",
        "png that is a zip too, cut": picture(64, 64)[:90] + b"PK\x03\x04" + b"\0" * 40,
        "jpeg full of comments": b"\xff\xd8" + b"\xff\xfe\xff\xff" * 40_000,
        "webp that claims 16383 squared": b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\xff\xff\xff\x0f" + b"\0" * 30,
        "nothing but a signature": b"\x89PNG\r\n\x1a\n",
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def noise(rng: random.Random, width: int, height: int) -> bytes:
    """A real image that nobody has seen before."""
    buffer = io.BytesIO()
    Image.frombytes("L", (width // 4, height // 4), rng.randbytes(width * height // 16)).resize((width, height)).save(
        buffer, "PNG"
    )
    return buffer.getvalue()
