"""Decision records: what the gateway saw and decided for each of the last requests. Never any content."""

from collections import OrderedDict
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic.alias_generators import to_camel

from autoglm_serving.images import ImageSize
from autoglm_serving.routing import LeftOut, Score

MAX_RECORDS = 1000

Outcome = Literal["pending", "answered", "refused", "failed", "abandoned"]


@dataclass
class Record:
    """One request, filled in as it goes on. Times in seconds count from its arrival."""

    request_id: str
    arrived_at: datetime
    model: str = ""
    deployment: str = ""
    body_bytes: int = 0
    text_characters: int = 0
    streams: bool = False
    images: tuple[ImageSize, ...] = ()
    candidates: tuple[Score, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Endpoints whose variant of the model is below the floor."""
    attempts_planned: tuple[str, ...] = ()
    reason: str = ""
    short_side: int | None = None
    resolution_reason: str = ""
    may_enlarge: bool = False
    """Whether there was time to bring smaller images up to that size (super-resolution)."""
    expected_quality: float | None = None
    """Share of the tasks that the model was measured to solve at this size; None where nothing was measured."""
    expected_loss: float | None = None
    """What that is below the largest measured size."""
    quality_basis: str = ""
    """The kind of screen that was measured, whether at this very size, and on how many tasks."""
    max_pixels: int | None = None
    site: str = ""
    endpoint: str = ""
    revision: str = ""
    variant: str = ""
    """The variant of the model that answered, until then the one that was chosen; empty where there are none."""
    variant_quality: str = ""
    """What it was measured to solve, in words."""
    side: str = ""
    """stable or canary, while two revisions share the traffic."""
    mirrored: bool = False
    """Whether a copy went to the canary."""
    attempts: int = 0
    outcome: Outcome = "pending"
    status: int | None = None
    error: str = ""
    picked_s: float | None = None
    first_byte_s: float | None = None
    ended_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the admin API: camelCase, with each candidate's total."""
        value = {to_camel(name): item for name, item in asdict(self).items()}
        value["arrivedAt"] = self.arrived_at.isoformat()
        value["images"] = [{"width": size.width, "height": size.height, "format": size.format} for size in self.images]
        value["candidates"] = [
            {**{to_camel(name): item for name, item in asdict(score).items()}, "totalS": score.total_s}
            for score in self.candidates
        ]
        if not self.variant:
            for candidate in value["candidates"]:
                del candidate["variant"]
        return value


class Records:
    """A ring of the last records, by request id."""

    def __init__(self, size: int = MAX_RECORDS) -> None:
        self._size = size
        self._records: OrderedDict[str, Record] = OrderedDict()

    def add(self, record: Record) -> None:
        self._records[record.request_id] = record
        while len(self._records) > self._size:
            self._records.popitem(last=False)

    def get(self, request_id: str) -> Record | None:
        return self._records.get(request_id)

    def latest(self, limit: int) -> list[Record]:
        """Newest first."""
        records = list(self._records.values())
        return records[: -limit - 1 : -1] if limit > 0 else []
