"""Decoding images: after the header check, in few worker processes with bounded memory and time.

A worker that dies over an image is replaced, and the image is refused: nothing that a client sends can end a replica.
"""

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

from PIL import Image

from autoglm_serving.app import decode_worker
from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.wire import ApiError, api_error

DECODE_WORKERS = 2
BASE_MEMORY = 256 * 1024 * 1024
MEMORY_PER_PIXEL = 16
"""Bytes: a transparent image is held three times on its way to RGB, with four bytes for each pixel."""
MAX_PIXELS = 50_000_000
CPU_S = 30
"""CPU time for one image. Fifty million pixels of PNG take two seconds."""
TIMEOUT_S = 120.0
"""Time of the clock, should a worker hang without computing."""


class Decoder:
    """A pool of workers. Calls beyond it wait, so that decoded copies in flight stay few. Workers start when needed."""

    def __init__(self, max_pixels: int = MAX_PIXELS, workers: int = DECODE_WORKERS, cpu_s: int = CPU_S) -> None:
        memory = BASE_MEMORY + MEMORY_PER_PIXEL * max_pixels
        self._command = (sys.executable, "-I", decode_worker.__file__, str(memory), str(cpu_s))
        self._places = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    async def decode(self, image: EncodedImage) -> Image.Image:
        """The image in RGB; raises ApiError `invalid_image` or `image_too_large`."""
        async with self._places:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, image)

    def warm(self) -> None:
        """Start one worker, so that the first image does not wait for it."""
        worker = _Worker(self._command)
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """End the workers. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, image: EncodedImage) -> Image.Image:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = worker or _Worker(self._command)
        try:
            answer, pixels = worker.ask(image)
        except (OSError, ValueError):  # it ended: out of memory or time, or its decoder crashed
            worker.end()
            raise _too_large(image) from None
        except BaseException:
            worker.end()
            raise
        with self._lock:
            keep = not self._closed
            if keep:
                self._idle.append(worker)
        if not keep:
            worker.end()
        if "refused" in answer:
            raise _refusal(str(answer["refused"]), image)
        return Image.frombytes("RGB", (answer["width"], answer["height"]), pixels)


class _Worker:
    """One process. It ends when this object's pipes are closed, also when the process that owns them is killed."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout

    def ask(self, image: EncodedImage) -> tuple[dict[str, Any], bytes]:
        """The worker's answer; OSError or ValueError when it ends before it has given one."""
        timer = threading.Timer(TIMEOUT_S, self._process.kill)
        timer.start()
        try:
            asked = {"length": len(image.data), "width": image.size.width, "height": image.size.height}
            self._to.write(json.dumps(asked).encode() + b"\n")
            self._to.write(image.data)
            self._to.flush()
            answer: dict[str, Any] = json.loads(self._from.readline())
            length = 3 * image.size.pixels if "refused" not in answer else 0
            pixels = self._from.read(length)
            if len(pixels) < length:
                raise OSError("the worker ended")
            return answer, pixels
        finally:
            timer.cancel()

    def end(self) -> None:
        """Kill it; nothing of it is worth waiting for."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()


def _refusal(why: str, image: EncodedImage) -> ApiError:
    match why:
        case "size":
            return api_error("invalid_image", "the image's header and its data disagree about its size", image.param)
        case "memory":
            return _too_large(image)
        case _:
            return api_error("invalid_image", "the image is damaged: its data cannot be decoded", image.param)


def _too_large(image: EncodedImage) -> ApiError:
    return api_error(
        "image_too_large", "the image takes too much memory or time to decode: send it smaller", image.param
    )
