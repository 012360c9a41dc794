"""Decoding images: after the header check, in few threads, and never more than the header promised."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.wire import ApiError, api_error

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
DECODE_THREADS = 2


class Decoder:
    """A pool of decode threads. Calls beyond it wait, so that decoded copies in flight stay few."""

    def __init__(self, threads: int = DECODE_THREADS) -> None:
        self._places = asyncio.Semaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def decode(self, image: EncodedImage) -> Image.Image:
        """The image in RGB; raises ApiError `invalid_image` or `image_too_large`."""
        async with self._places:
            return await asyncio.get_running_loop().run_in_executor(self._pool, decode, image)

    def close(self) -> None:
        """Let the threads end. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def decode(image: EncodedImage) -> Image.Image:
    """Decode the first frame to RGB, on white where it is transparent."""
    try:
        with Image.open(io.BytesIO(image.data), formats=FORMATS) as opened:
            if opened.size != (image.size.width, image.size.height):
                raise api_error("invalid_image", "the image's header and its data disagree about its size", image.param)
            opened.load()
            return _flatten(opened)
    except ApiError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise api_error("image_too_large", "the image is too large to decode: send it smaller", image.param) from None
    except Exception:  # noqa: BLE001 - decoders of hostile bytes raise anything; the client is told what it can mend
        raise api_error("invalid_image", "the image is damaged: its data cannot be decoded", image.param) from None


def _flatten(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(coloured)
        return white.convert("RGB")
    return image.convert("RGB")
