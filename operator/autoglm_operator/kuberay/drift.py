"""Whether stored objects are as they shall be."""

from collections.abc import Iterable, Mapping
from typing import Any

from autoglm_operator.within import within


def drifted(stored: Mapping[str, Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Kinds of the objects that are missing or not as they shall be. What others added beside ours does not count."""
    return tuple(one["kind"] for one in wanted if not within(_compared(one), stored.get(one["kind"], {})))


def _compared(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key != "apiVersion"}
