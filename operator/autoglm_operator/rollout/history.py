"""Which revisions a deployment had, with the arguments that are needed to run each one again."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from autoglm_operator.api import KnownRevision, WorkerSpec
from autoglm_operator.rollout.terms import Decision
from autoglm_operator.state import clip
from autoglm_serving.config import AppConfig

State = Literal["Stable", "Candidate", "Rejected", "Superseded", "Retired"]

_OURS = ("deployment", "uid", "cluster")
"""Arguments that say whose application it is. They are those of now, whatever a template says."""


def template(config: AppConfig) -> dict[str, Any]:
    """The arguments to remember: those that make the revision what it is."""
    excluded = {"replicas", "revision", *_OURS}
    return config.model_dump(mode="json", by_alias=True, exclude=excluded, exclude_defaults=True)


def config(known: Sequence[KnownRevision], revision: str, now: AppConfig) -> AppConfig | None:
    """The arguments of a revision: those of now if it is the same, else the remembered ones; None if there are none."""
    if now.revision == revision:
        return now
    found = next((one for one in known if one.revision == revision), None)
    return None if found is None else restored(found.template, revision, now)


def restored(template: Mapping[str, Any], revision: str, now: AppConfig) -> AppConfig | None:
    """Arguments from a template or from an application that runs; None if this version cannot read them."""
    ours = {name: getattr(now, name) for name in _OURS if hasattr(now, name)}
    try:
        return AppConfig.model_validate({**template, **ours, "revision": revision})
    except ValidationError:
        return None


def worker(known: Sequence[KnownRevision], revision: str) -> WorkerSpec | None:
    """What the pods of a revision are made from; None if that is not remembered, or this version cannot read it."""
    found = next((one.worker for one in known if one.revision == revision), None)
    try:
        return None if found is None else WorkerSpec.model_validate(found)
    except ValidationError:
        return None


def with_worker(known: Sequence[KnownRevision], revision: str, spec: WorkerSpec) -> tuple[KnownRevision, ...]:
    """The history with what the spec says of pods, remembered with the revision that it describes."""
    told = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return tuple(
        one.model_copy(update={"worker": told}) if one.revision == revision and one.worker != told else one
        for one in known
    )


def remembered(
    known: Sequence[KnownRevision], decision: Decision, configs: Mapping[str, AppConfig], limit: int, now: datetime
) -> tuple[KnownRevision, ...]:
    """The history after a decision. The stable revision and the candidate always stay; of the others those that were never
    stable go first, and then the oldest."""
    memory = decision.memory
    by_name = {one.revision: one for one in known}
    for name in filter(None, (memory.stable, memory.candidate)):
        if name not in by_name and name in configs:
            by_name[name] = KnownRevision(revision=name, state="Candidate", since=now, template=template(configs[name]))
    entries = [_entry(one, decision, now) for one in by_name.values()]
    entries.sort(key=lambda one: one.since)
    needed = {memory.stable, memory.candidate}
    spare = [one for one in entries if one.revision not in needed]
    spare.sort(key=lambda one: one.state == "Retired")
    dropped = {one.revision for one in spare[: max(len(spare) - limit, 0)]}
    return tuple(one for one in entries if one.revision not in dropped)


def _entry(one: KnownRevision, decision: Decision, now: datetime) -> KnownRevision:
    state, reason = _state(one, decision)
    if one.state == state:
        return one
    return one.model_copy(update={"state": state, "reason": clip(reason), "since": now.replace(microsecond=0)})


def _state(one: KnownRevision, decision: Decision) -> tuple[State, str]:
    """What a revision is after a decision, and why. Only one that was stable, and answered, can be gone back to."""
    memory = decision.memory
    if one.revision == memory.stable:
        return "Stable", ""
    if one.revision == memory.candidate:
        return "Candidate", ""
    if memory.rejected is not None and memory.rejected.revision == one.revision:
        return "Rejected", memory.rejected.reason
    if one.state == "Candidate":
        why = (taken.reason for taken in decision.taken if taken.revision == one.revision)
        return "Superseded", next(why, f"revision {memory.stable} serves in place of it")
    if one.state == "Stable":
        unproven = next((taken for taken in decision.taken if taken.action == "Replaced"), None)
        return ("Retired", "") if unproven is None else ("Superseded", unproven.reason)
    return one.state, one.reason
