"""A headless Chromium, driven by the DevTools protocol over a pipe: no port to find, and it ends with its parent."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autoglm_serving.screens.scene import Device, Theme

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ENDS_WITHIN_S = 10
_ANSWERS_WITHIN_S = 300  # a page takes far less than a second; a loaded machine may take its time
_LOADS_WITHIN_S = 30
_LOOKS_EVERY_S = 0.01
_ELSEWHERE = ("http://*", "https://*", "ws://*", "wss://*", "ftp://*")
_STILL = ({"name": "prefers-reduced-motion", "value": "reduce"},)
_LOADED = "Reflect.get(Document.prototype, 'readyState', document)"  # a page's form may be named readyState
_SWITCHES = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    # Blocked addresses are not asked, but a page's `preconnect` would still be connected to.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    # The same pixels on every machine: no colour profile, no hinting, no sub-pixel text.
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--disable-lcd-text",
)


class NoChromium(Exception):
    """There is no Chromium here, or it does not work."""


class ScriptFailed(NoChromium):
    """A script in the page failed. That may be the fault of the page: it went away, or its names are those of DOM functions."""


def find_chromium() -> str | None:
    """Path of a Chromium on this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class NotShown(Exception):
    """A page that Chromium does not show, or on which there is nothing to read off; the reason in a few words."""


class Chromium:
    """One browser with one page, used for many screens. A context manager: leaving it ends the browser."""

    def __init__(self, program: str | None = None) -> None:
        path = program or find_chromium()
        if path is None:
            raise NoChromium("no Chromium on this machine: run scripts/install-chromium.sh")
        self.folder = tempfile.TemporaryDirectory(prefix="autoglm-chromium-", ignore_cleanup_errors=True)
        self.process, self._out, self._into = _start(path, Path(self.folder.name))
        self._buffer = b""
        self._calls = 0
        self._session: str | None = None
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._frame = self._call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def show(self, html: str, device: Device) -> None:
        """Lay out a page on a screen of this size."""
        self._size(device)
        self._call("Page.setDocumentContent", frameId=self._frame, html=html)

    def open(self, url: str, device: Device, theme: Theme) -> None:
        """Load a page with its style sheets and pictures, but without its scripts and without a network.

        In the dark, a page that has no dark colours gets those that Chromium makes. This browser stays without scripts and
        a network. Raises NotShown when the page does not load.
        """
        dark = theme == "dark"
        self._call("Network.enable")
        self._call("Network.setBlockedURLs", urls=list(_ELSEWHERE))
        self._call("Emulation.setScriptExecutionDisabled", value=True)
        self._call("Emulation.setEmulatedMedia", features=[*_STILL, {"name": "prefers-color-scheme", "value": theme}])
        self._call("Emulation.setAutoDarkModeOverride", enabled=dark)
        self._size(device)
        if failed := self._call("Page.navigate", url=url).get("errorText"):
            raise NotShown(f"does not load ({failed})")
        ends = time.monotonic() + _LOADS_WITHIN_S
        while self.evaluate(_LOADED) != "complete":
            if time.monotonic() > ends:
                raise NotShown(f"does not load within {_LOADS_WITHIN_S} s")
            time.sleep(_LOOKS_EVERY_S)

    def _size(self, device: Device) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=device.width,
            height=device.height,
            deviceScaleFactor=device.scale,
            mobile=False,
        )

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page, as JSON. Raises ScriptFailed when the page lets it fail."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise ScriptFailed(f"a script of the page failed: {answer['exceptionDetails'].get('text')}")
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The page as PNG."""
        data = self._call("Page.captureScreenshot", format="png", optimizeForSpeed=True)["data"]
        return base64.b64decode(data)

    def close(self) -> None:
        """End the browser and remove its files."""
        for end in (self._into, self._out):
            with contextlib.suppress(OSError):
                os.close(end)
        # Closed pipes end the browser; what is left of its processes after that is killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDS_WITHIN_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.folder.cleanup()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        _write(self._into, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") != self._calls:
                continue  # an event, of no interest here
            if "error" in answer:
                failed = ScriptFailed if method == "Runtime.evaluate" else NoChromium
                raise failed(f"{method}: {answer['error'].get('message')}")
            result: dict[str, Any] = answer["result"]
            return result

    def _read(self) -> bytes:
        pieces = [self._buffer]
        while b"\0" not in pieces[-1]:
            if not select.select([self._out], [], [], _ANSWERS_WITHIN_S)[0]:
                raise NoChromium(f"Chromium did not answer within {_ANSWERS_WITHIN_S} s")
            piece = os.read(self._out, 1 << 20)
            if not piece:
                raise NoChromium("Chromium ended in the middle of a page")
            pieces.append(piece)
        message, _, self._buffer = b"".join(pieces).partition(b"\0")
        return message


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """The process, the end to read answers from and the end to write calls to (its descriptors 4 and 3)."""
    calls_read, calls_write = os.pipe()
    answers_read, answers_write = os.pipe()
    # The sandbox does not work for root, which containers usually are; pages are made here, or local and without scripts.
    sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()
    command = (program, *_SWITCHES, *sandbox, f"--user-data-dir={folder}", "about:blank")
    # Only a shell can place the two pipes at 3 and 4 without running Python code between fork and exec.
    placed = f'exec "$@" 3<&{calls_read} 4>&{answers_write}'
    try:
        process = subprocess.Popen(
            ["bash", "-c", placed, "bash", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(calls_read, answers_write),
            start_new_session=True,
        )
    except OSError as error:
        raise NoChromium(f"{program} does not start: {error}") from error
    finally:
        os.close(calls_read)
        os.close(answers_write)
    return process, answers_read, calls_write


def _write(end: int, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(end, rest) :]
    except BrokenPipeError as error:
        raise NoChromium("Chromium ended") from error
