"""Whether what was written is there, however it was filled up by whoever keeps it."""

from collections.abc import Mapping
from typing import Any


def within(wanted: Any, found: Any) -> bool:
    """Whether all of `wanted` stands in `found`: mappings may have more keys there, lists have the same length."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and within(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(wanted) == len(found)
            and all(within(one, other) for one, other in zip(wanted, found, strict=True))
        )
    return bool(wanted == found)
