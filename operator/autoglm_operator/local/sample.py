"""The example request: a screenshot and a question, as a file that curl can send."""

import base64
import json
import shlex
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

QUESTION = "Open the settings."
MAX_TOKENS = 64
TIMEOUT_S = 300.0
REPOSITORY_EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def screenshot(manifest: Path) -> bytes:
    """The screenshot beside the manifest, else the repository's, else a plain picture of a phone's size."""
    for folder in (manifest.resolve().parent, REPOSITORY_EXAMPLES):
        path = folder / "screenshot.png"
        if path.is_file():
            return path.read_bytes()
    return plain_png(1080, 2400)


def plain_png(width: int, height: int) -> bytes:
    """A grey PNG."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height, 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def body(model: str, image: bytes) -> str:
    """The request as JSON."""
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}]
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": MAX_TOKENS})


def curl(url: str, path: Path) -> str:
    """One line that sends it."""
    return f"curl -sS {url}/v1/chat/completions -H 'content-type: application/json' --data-binary @{shlex.quote(str(path))}"


def send(url: str, path: Path) -> tuple[int, dict[str, str], Any]:
    """Send it once: status, headers in lower case, JSON. Raises OSError when nothing answers."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", data=path.read_bytes(), headers={"content-type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            status, headers, data = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, data = error.code, error.headers, error.read()
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = {"error": {"message": data[:200].decode(errors="replace")}}
    return status, {name.lower(): value for name, value in headers.items()}, parsed
