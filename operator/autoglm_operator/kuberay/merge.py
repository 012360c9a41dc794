"""Merging a user's pod template over the operator's: maps by key, lists of named entries by name, all else replaced."""

from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = ("name", "mountPath", "containerPort", "key")


def merged(base: Any, over: Any) -> Any:
    """`over` merged over `base`; neither is changed."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        parts = {key: merged(value, over[key]) if key in over else value for key, value in base.items()}
        return parts | {key: value for key, value in over.items() if key not in base}
    if _is_list(base) and _is_list(over):
        key = _key_of([*base, *over])
        return _merged_lists(base, over, key) if key else list(over)
    return over


def _merged_lists(base: Sequence[Any], over: Sequence[Any], key: str) -> list[Any]:
    """Entries of the same name are merged in their old place; new ones follow."""
    changes = {entry[key]: entry for entry in over}
    known = {entry[key] for entry in base}
    kept = [merged(entry, changes[entry[key]]) if entry[key] in changes else entry for entry in base]
    return kept + [entry for entry in over if entry[key] not in known]


def _key_of(entries: Sequence[Any]) -> str | None:
    """The field that names every entry, if there is one."""
    if not all(isinstance(entry, Mapping) for entry in entries):
        return None
    return next((key for key in _KEYS if entries and all(key in entry for entry in entries)), None)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
