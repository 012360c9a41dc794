"""What `autoglm up` says: lines with the seconds since its start, each change once, and what is waited for."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from autoglm_operator.local import sample, show
from autoglm_operator.local.store import write_atomically
from autoglm_operator.store import DEPLOYMENT, JsonObject, ObjectKey

QUIET_S = 15.0


class Narrator:
    """Says what changes. `out` prints one text."""

    def __init__(self, out: Callable[[str], None]) -> None:
        """Time counts from now."""
        self._out = out
        self._begun = self._said_at = time.monotonic()
        self._states: dict[ObjectKey, str] = {}

    def say(self, words: str) -> None:
        """One line."""
        self._said_at = time.monotonic()
        self._out(f"{self._said_at - self._begun:7.1f} s  {words}")

    def tell_changes(self, objects: Mapping[ObjectKey, JsonObject]) -> None:
        """Every object whose state is another than before; after a silence, what is waited for."""
        for key, raw in objects.items():
            words = show.state(raw)
            if self._states.get(key) != words:
                self._states[key] = words
                self.say(f"{key}: {words}")
        for key in self._states.keys() - objects.keys():
            del self._states[key]
            self.say(f"{key}: gone")
        waiting = [
            f"{key} ({show.state(raw)})"
            for key, raw in objects.items()
            if key.kind == DEPLOYMENT and not show.is_ready(raw)
        ]
        if waiting and time.monotonic() - self._said_at > QUIET_S:
            self.say("waiting for " + ", ".join(waiting))

    def show_and_send(self, key: ObjectKey, raw: JsonObject, url: str, paths: tuple[Path, Path]) -> None:
        """Show how to send a screenshot, send it once, show the answer. `paths`: the manifest, and the body's new file."""
        manifest, body = paths
        model = str(raw["spec"]["model"]["name"])
        write_atomically(body, sample.body(model, sample.screenshot(manifest)))
        self.say(f"{key.namespace}/{key.name} is ready: model {model} at {url}/v1")
        self._out(f"\n  {sample.curl(url, body)}\n")
        begun = time.monotonic()
        try:
            status, headers, answer = sample.send(url, body)
        except OSError as error:
            self.say(f"that request got no answer: {error}")
            return
        took = f"{time.monotonic() - begun:.1f} s"
        if status != 200:
            self.say(f"that request was refused with {status} after {took}: {json.dumps(answer)}")
            return
        text = answer["choices"][0]["message"]["content"]
        site, request_id = headers.get("x-autoglm-site", "?"), headers.get("x-request-id", "?")
        self.say(f"answered in {took} by site {site} ({answer['usage']['prompt_tokens']} tokens in): {text!r}")
        self.say(f"why there: autoglm explain {request_id}")
