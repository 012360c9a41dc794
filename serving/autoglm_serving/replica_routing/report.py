"""What a replica tells the routers about itself, as plain values that Serve carries: `record_routing_stats`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_NAMES = 512
"""Names of each kind in one report, the most recently used ones: 10 KB each second and replica."""


@dataclass(frozen=True)
class Speeds:
    """Seconds for one token: of an image in the vision tower, of a prompt, of an answer."""

    encode_s: float = 0.0005
    prefill_s: float = 0.0005
    decode_s: float = 0.02


@dataclass(frozen=True)
class Report:
    """Work that is queued or running, and what is cached.

    `image_tokens` wait for the vision tower and `prompt_tokens` for the language model; `answer_tokens` are still to be
    made, as far as answers can be foreseen. `sequence` tells two reports apart.
    """

    sequence: int
    image_tokens: int
    prompt_tokens: int
    answer_tokens: float
    running: int
    mean_answer: float
    speeds: Speeds
    images: frozenset[str]
    keys: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """For Serve. The other way is `read_report`."""
        return {
            "sequence": self.sequence,
            "work": [self.image_tokens, self.prompt_tokens, self.answer_tokens, self.running, self.mean_answer],
            "speeds": [self.speeds.encode_s, self.speeds.prefill_s, self.speeds.decode_s],
            "images": sorted(self.images),
            "keys": sorted(self.keys),
        }


def read_report(stats: Mapping[str, Any]) -> Report | None:
    """The report in a replica's statistics; None when there is none that can be read, as from an older replica."""
    try:
        images, prompt, answer, running, mean = stats["work"]
        encode, prefill, decode = (float(each) for each in stats["speeds"])
        return Report(
            sequence=int(stats["sequence"]),
            image_tokens=int(images),
            prompt_tokens=int(prompt),
            answer_tokens=float(answer),
            running=int(running),
            mean_answer=float(mean),
            speeds=Speeds(encode, prefill, decode),
            images=frozenset(map(str, stats["images"])),
            keys=frozenset(map(str, stats["keys"])),
        )
    except (KeyError, TypeError, ValueError):
        return None
