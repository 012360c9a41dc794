"""Whether stored objects are as they shall be."""

from collections.abc import Iterable, Mapping
from typing import Any


def drifted(stored: Mapping[str, Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Kinds of the objects that are missing or not as they shall be. What others added beside ours does not count."""
    return tuple(one["kind"] for one in wanted if not _within(_compared(one), stored.get(one["kind"], {})))


def _compared(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "apiVersion"}


def _within(wanted: Any, found: Any) -> bool:
    """Whether everything that was written is there. The API server may have filled in defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _within(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(found, list | tuple)
            and len(wanted) == len(found)
            and all(_within(one, other) for one, other in zip(wanted, found, strict=True))
        )
    return bool(wanted == found)
