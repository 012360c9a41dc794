"""The revision: a short name for what a user calls a new version of a deployment."""

import hashlib
import json

from autoglm_serving.config import AppConfig

LENGTH = 10
"""Hex digits: 40 bits tell the revisions of one deployment apart and still fit a table column."""

_COUNTED = ("model", "engine", "limits", "worker", "encoder")


def of(config: AppConfig) -> str:
    """The hash of model, engine, limits, worker and encoder. Replicas and names do not count, so scaling is no new revision.

    Values that equal their default are left out: a newer operator that knows more fields gives the same revision, and an
    upgrade of the operator alone restarts nothing.
    """
    content = config.model_dump(mode="json", by_alias=True, include=set(_COUNTED), exclude_defaults=True)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def stamp(config: AppConfig) -> AppConfig:
    """The same configuration with its revision filled in."""
    return config.model_copy(update={"revision": of(config)})
