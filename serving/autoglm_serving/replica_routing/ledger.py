"""A replica's own books: what it still has to do, how fast it is, and what its caches should hold. Makes its reports."""

from collections import OrderedDict
from dataclasses import dataclass

from autoglm_serving.replica_routing.footprint import Footprint
from autoglm_serving.replica_routing.report import MAX_NAMES, Report, Speeds

LEARNING = 0.1
"""Weight of the newest measurement in a running mean."""
FIRST_ANSWER = 64.0
"""Tokens of an answer until answers were seen: an agent's step is a short one."""


@dataclass(frozen=True)
class CacheSizes:
    """What an engine keeps, in tokens: encoded images, and prefixes of prompts. 0: it has no such cache."""

    image_tokens: int = 0
    prefix_tokens: int = 0


class RecentNames:
    """Names with their sizes, at most `capacity` together; the least recently used goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._names: OrderedDict[str, int] = OrderedDict()
        self._held = 0

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def touch(self, name: str, size: int) -> None:
        """Note a use. What is larger than everything is not kept."""
        self._held += size - self._names.pop(name, 0)
        self._names[name] = size
        while self._held > self._capacity:
            self._held -= self._names.popitem(last=False)[1]

    def newest(self, count: int) -> frozenset[str]:
        names = reversed(self._names)
        return frozenset(name for name, _ in zip(names, range(count), strict=False))


@dataclass
class _Running:
    """One call: what of its prompt is not read yet, and how much it has answered."""

    image_tokens: int
    prompt_tokens: int
    limit: int
    begun: float
    alone: bool
    answered: int = 0
    first: float = 0.0


class Ledger:
    """For one event loop; `now` is the caller's monotonic clock in seconds."""

    def __init__(self, sizes: CacheSizes, speeds: Speeds = Speeds()) -> None:  # noqa: B008 - frozen
        self._images = RecentNames(sizes.image_tokens)
        self._keys = RecentNames(sizes.prefix_tokens)
        self._running: dict[object, _Running] = {}
        self._speeds = speeds
        self._mean_answer = FIRST_ANSWER
        self._sequence = 0

    def begin(self, footprint: Footprint, now: float) -> object:
        """Book a call; give the handle to the other methods."""
        image_tokens, prompt_tokens = uncached(footprint, self._images, self._keys)
        handle = object()
        alone = all(each.first for each in self._running.values())
        self._running[handle] = _Running(image_tokens, prompt_tokens, footprint.new_tokens, now, alone)
        for block in reversed(footprint.blocks):  # the start of a prompt is shared most, so it is forgotten last
            self._keys.touch(block.key, block.tokens)
            if block.image is not None:
                self._images.touch(block.image, block.tokens)
        return handle

    def answered(self, handle: object, tokens: int, now: float) -> None:
        """The call has `tokens` of its answer now. The first ones show that its prompt has been read."""
        call = self._running[handle]
        if not call.first:
            call.first = now
            self._learn_prompt(call, now - call.begun)
            call.image_tokens = call.prompt_tokens = 0
        call.answered = tokens

    def end(self, handle: object, finished: bool, now: float) -> None:
        """The call is over. Only a finished one teaches how long answers are."""
        call = self._running.pop(handle)
        if not finished:
            return
        self._mean_answer += LEARNING * (call.answered - self._mean_answer)
        if call.answered > 1:
            pace = (now - call.first) / (call.answered - 1)
            self._speeds = Speeds(
                self._speeds.encode_s,
                self._speeds.prefill_s,
                self._speeds.decode_s + LEARNING * (pace - self._speeds.decode_s),
            )

    def report(self) -> Report:
        """What the routers are told now."""
        self._sequence += 1
        calls = self._running.values()
        return Report(
            sequence=self._sequence,
            image_tokens=sum(call.image_tokens for call in calls),
            prompt_tokens=sum(call.prompt_tokens for call in calls),
            answer_tokens=sum(max(1.0, min(self._mean_answer, call.limit) - call.answered) for call in calls),
            running=len(self._running),
            mean_answer=self._mean_answer,
            speeds=self._speeds,
            images=self._images.newest(MAX_NAMES),
            keys=self._keys.newest(MAX_NAMES),
        )

    def _learn_prompt(self, call: _Running, seconds: float) -> None:
        """Scale both speeds by how wrong they were, on a call that waited for no other prompt."""
        foreseen = call.image_tokens * self._speeds.encode_s + call.prompt_tokens * self._speeds.prefill_s
        if not call.alone or foreseen <= 0 or call.prompt_tokens < MIN_LESSON_TOKENS:
            return
        factor = 1 + LEARNING * (min(seconds / foreseen, MAX_LESSON) - 1)
        self._speeds = Speeds(self._speeds.encode_s * factor, self._speeds.prefill_s * factor, self._speeds.decode_s)


MIN_LESSON_TOKENS = 32
"""A shorter prompt takes longer to carry than to read, and says nothing about reading."""
MAX_LESSON = 10.0
"""One stall must not make a replica look dead for minutes."""


def uncached(
    footprint: Footprint, images: RecentNames | frozenset[str], keys: RecentNames | frozenset[str]
) -> tuple[int, int]:
    """Tokens that must be computed: (in the vision tower, in the language model)."""
    encode = prefill = 0
    shared = True
    for block in footprint.blocks:
        shared = shared and block.key in keys
        if shared:
            continue
        prefill += block.tokens
        if block.image is not None and block.image not in images:
            encode += block.tokens
    return encode, prefill
