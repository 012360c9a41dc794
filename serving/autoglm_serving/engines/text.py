"""From token ids to the text a client sees: the same rules for every engine.

- Text is sent as soon as it can no longer change: never half a character, never the beginning of a stop string.
- The answer ends before the first stop string. `</answer>` is always one: AutoGLM's clients mis-read an action that is
  followed by it, and where it is an end-of-sequence token the model stops there anyway.
- Control tokens have no bytes, so they are never seen.
"""

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

END_OF_ANSWER = "</answer>"


@dataclass(frozen=True)
class TextStep:
    """Text that is now final, and whether a stop string ended the answer."""

    text: str
    stopped: bool


class TextStream:
    """Turns the tokens of one answer into text, step by step."""

    def __init__(self, pieces: Mapping[int, bytes], stop: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self._stops = tuple({*filter(None, stop), END_OF_ANSWER})
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._stopped = False

    def push(self, token_ids: Sequence[int]) -> TextStep:
        """Add tokens; what comes after a stop string is dropped. An id without bytes adds nothing."""
        if self._stopped:
            return TextStep("", True)
        data = b"".join(self._pieces.get(index, b"") for index in token_ids)
        self._held += self._decoder.decode(data)
        cut = _first_stop(self._held, self._stops)
        if cut is not None:
            text, self._held, self._stopped = self._held[:cut], "", True
            return TextStep(text, True)
        keep = _stop_begun(self._held, self._stops)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return TextStep(text, False)

    def finish(self) -> str:
        """What was held back. The bytes of an unfinished character are dropped."""
        text, self._held = self._held, ""
        return text


def _first_stop(text: str, stops: Sequence[str]) -> int | None:
    found = [index for stop in stops if (index := text.find(stop)) >= 0]
    return min(found, default=None)


def _stop_begun(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = max(map(len, stops))
    for length in range(min(longest - 1, len(text)), 0, -1):
        end = text[-length:]
        if any(stop.startswith(end) for stop in stops):
            return length
    return 0
