"""Requests from the node to a Service, in a process of the node's own network. It counts those that were not answered.

Runs as `python traffic.py URL` there: a picture after the other, and questions that cost gateways alone, as many as they take
until a line comes in. Ends with its input, and prints what became of all requests.
"""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Json = dict[str, Any]

EAGER = 6
_TIMEOUT_S = 120
_END_S = 300.0


@dataclass
class Traffic:
    """What was sent; figures are there when it has ended."""

    pictures: int = 0
    questions: int = 0
    lost: list[str] = field(default_factory=list)
    _input: IO[str] | None = None

    def ease(self) -> None:
        """From now on a picture after the other, and a question now and then."""
        assert self._input is not None
        print("ease", file=self._input, flush=True)


@contextmanager
def running(inside: list[str], url: str, picture: Json, directory: Path) -> Iterator[Traffic]:
    """Traffic to `url`; `inside` is what starts a command in the node."""
    body = directory / "picture.json"
    body.write_text(json.dumps(picture))
    command = [*inside, sys.executable, __file__, url, str(body)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    traffic = Traffic(_input=process.stdin)
    try:
        yield traffic
        told, _ = process.communicate(timeout=_END_S)
        found = json.loads(told)
        traffic.pictures, traffic.questions, traffic.lost = found["pictures"], found["questions"], found["lost"]
    finally:
        process.kill()


class _Sender:
    def __init__(self, url: str, picture: bytes) -> None:
        self._url, self._picture = url, picture
        self._answered = {"pictures": 0, "questions": 0}
        self._lost: list[str] = []
        self._lock = threading.Lock()
        self.eased, self.ended = threading.Event(), threading.Event()

    def send_pictures(self) -> None:
        while not self.ended.is_set():
            self._send("pictures", "/v1/chat/completions", self._picture)

    def ask(self, *, eager: bool) -> None:
        while not self.ended.is_set() and not (eager and self.eased.is_set()):
            self._send("questions", "/v1/models", None)
            if not eager:
                time.sleep(0.5)

    def _send(self, kind: str, path: str, body: bytes | None) -> None:
        request = urllib.request.Request(self._url + path, data=body, headers={"content-type": "application/json"})
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                json.load(answer)
        except (OSError, ValueError) as error:
            with self._lock:
                self._lost.append(f"{path} after {time.monotonic() - begun:.1f} s: {error!r}")
            return
        with self._lock:
            self._answered[kind] += 1

    def told(self) -> Json:
        return {**self._answered, "lost": self._lost}


def _main(url: str, picture: str) -> None:
    sender = _Sender(url, Path(picture).read_bytes())
    threads = [threading.Thread(target=sender.ask, kwargs={"eager": number > 0}) for number in range(1 + EAGER)]
    threads.append(threading.Thread(target=sender.send_pictures))
    for thread in threads:
        thread.start()
    for _ in sys.stdin:
        sender.eased.set()
    sender.ended.set()
    for thread in threads:
        thread.join()
    print(json.dumps(sender.told()), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
