"""One decode worker: a process that turns encoded images into RGB pixels, with limits that the kernel enforces.

Run as a program by `decoding`. Image libraries are C code that reads hostile bytes: if one takes too much memory or time, or
crashes, this process ends and the replica with its model does not. It imports nothing but Pillow, so that it starts fast.

    to it:   {"length": N, "width": W, "height": H} and a line feed, then N bytes of the image
    from it: {"width": W, "height": H} or {"refused": "damaged"|"size"|"memory"} and a line feed, then W x H x 3 bytes
"""

import io
import json
import os
import resource
import sys
from typing import BinaryIO

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def main(memory_bytes: int, cpu_s: int) -> None:
    """Answer until the other side closes. `memory_bytes` may be added to what the process has after its imports."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing but answers may get into the pipe
    Image.MAX_IMAGE_PIXELS = None  # the limit is checked by the caller, from the header, and memory by the kernel
    Image.init()
    limit = _address_space() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    while line := source.readline():
        _allow_cpu(cpu_s)
        asked = json.loads(line)
        _answer(sink, _read(source, asked["length"]), (asked["width"], asked["height"]))


def _answer(sink: BinaryIO, data: bytes, size: tuple[int, int]) -> None:
    pixels = b""
    answer: dict[str, int | str]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != size:
                answer = {"refused": "size"}
            else:
                opened.load()
                pixels = flatten(opened).tobytes()
                answer = {"width": size[0], "height": size[1]}
    except (Image.DecompressionBombError, MemoryError):
        answer = {"refused": "memory"}
    except Exception:  # noqa: BLE001 - decoders of hostile bytes raise anything
        answer = {"refused": "damaged"}
    sink.write(json.dumps(answer).encode() + b"\n")
    sink.write(pixels)
    sink.flush()


def flatten(image: Image.Image) -> Image.Image:
    """The first frame in RGB, on white where it is transparent."""
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(coloured)
        return white.convert("RGB")
    return image.convert("RGB")


def _read(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        sys.exit(0)
    return data


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - pathlib is not worth its import here
        return int(statm.read().split()[0]) * resource.getpagesize()


def _allow_cpu(seconds: int) -> None:
    """CPU time, not time of the clock: on a busy machine an honest image may take long."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
