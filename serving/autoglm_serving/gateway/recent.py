"""How long answers took to begin lately, by deployment: what the operator shows beside each deployment. Pure; time is given."""

from collections import Counter

from autoglm_serving.measurements import FirstBytes, Sketch, bucket

SLOT_S = 60
SLOTS = 5


class Recent:
    """First bytes of the last five minutes, in slots of a minute that are dropped whole. `now` is in monotonic seconds."""

    def __init__(self) -> None:
        self._slots: dict[str, dict[int, Counter[int]]] = {}

    def began(self, deployment: str, seconds: float, now: float) -> None:
        """An answer to a client began so many seconds after its request was read."""
        slots = self._slots.setdefault(deployment, {})
        slots.setdefault(int(now // SLOT_S), Counter())[bucket(seconds)] += 1
        _forget(slots, now)

    def reports(self, now: float) -> tuple[FirstBytes, ...]:
        """What is known of each deployment that had answers lately. The others are forgotten."""
        for slots in self._slots.values():
            _forget(slots, now)
        self._slots = {name: slots for name, slots in self._slots.items() if slots}
        return tuple(
            FirstBytes(deployment=name, ttft=Sketch(counts=dict(sum(slots.values(), Counter[int]()))))
            for name, slots in sorted(self._slots.items())
        )


def _forget(slots: dict[int, Counter[int]], now: float) -> None:
    oldest = int(now // SLOT_S) - SLOTS + 1
    for number in [number for number in slots if number < oldest]:
        del slots[number]
