"""What a person does with a rollout, as patches, and what is told about it. Pure; the operator does the work."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from autoglm_operator.api import GROUP
from autoglm_operator.local.show import NONE, age, table
from autoglm_operator.store import JsonObject

PREFIX = f"{GROUP}/rollout-"
"""Annotations by which a person steers a rollout; each names the one attempt that it is about."""

Patch = Mapping[str, Any]


class NothingToDo(Exception):
    """The deployment is not where this makes sense. The message says what there is."""


def pause(raw: JsonObject) -> Patch:
    """Stops a rollout in steps where it is, or before it begins. Without steps nothing reads the annotation."""
    if not _wished(raw).get("steps"):
        raise NothingToDo(f"{_name(raw)} has no rollout to pause: spec.rollout.steps is {NONE}")
    return _annotation("pause", "true")


def resume(raw: JsonObject) -> Patch:
    """Goes on with a rollout that was paused, by annotation or in the spec."""
    patch = dict(_annotation("pause", None))
    if _wished(raw).get("paused"):
        patch["spec"] = {"rollout": {"paused": False}}
    return patch


def promote(raw: JsonObject) -> Patch:
    """The candidate takes over now."""
    return _annotation("promote", _attempt(raw))


def abort(raw: JsonObject) -> Patch:
    """The candidate is taken back."""
    return _annotation("abort", _attempt(raw))


def approve(raw: JsonObject) -> Patch:
    """The present step may end."""
    return _annotation("approve", f"{_attempt(raw)}/{_rollout(raw).get('step', 0)}")


def retry(raw: JsonObject, now: datetime) -> Patch:
    """A revision that was taken back is tried again, as another attempt."""
    if not _rollout(raw).get("rejected"):
        raise NothingToDo(f"{_name(raw)}: no revision was taken back")
    return _annotation("retry", f"{now:%Y-%m-%dT%H:%M:%SZ}")


def rollback(raw: JsonObject, revision: str | None) -> Patch:
    """An earlier revision serves again: the newest retired one, unless one is named. It takes over without steps and gates,
    so neither one that was taken back nor one that is being measured will do."""
    states = {entry["revision"]: entry["state"] for entry in _rollout(raw).get("revisions") or ()}
    good = [name for name, state in states.items() if state in ("Retired", "Stable")]
    retired = [name for name in good if states[name] == "Retired"]
    if revision is None and not retired:
        raise NothingToDo(f"{_name(raw)}: there is no earlier revision to go back to")
    if revision is not None and revision not in good:
        found = states.get(revision, "not known")
        there = f"to go back to there are, Retired or Stable: {', '.join(good) or 'none'}"
        raise NothingToDo(f"{_name(raw)}: revision {revision} is {found}; {there}")
    return {"spec": {"rollout": {"revision": revision or retired[-1]}}}


def follow(raw: JsonObject) -> Patch:
    """The revision that the spec describes serves again, after a rollback."""
    if not _wished(raw).get("revision"):
        raise NothingToDo(f"{_name(raw)}: spec.rollout.revision names no revision")
    return {"spec": {"rollout": {"revision": None}}}


def waits(raw: JsonObject) -> str:
    """What to add to the answer of a verb: while a rollout is paused nothing is decided, not even that it goes back."""
    annotations = raw["metadata"].get("annotations") or {}
    paused = _wished(raw).get("paused") or annotations.get(PREFIX + "pause") == "true"
    return ", but only after `kubectl autoglm rollout resume`: the rollout is paused" if paused else ""


def status(raw: JsonObject, now: datetime) -> str:
    """Where a rollout stands, its gates, the revisions that can be gone back to, and what was decided."""
    rollout = _rollout(raw)
    lines = [f"{_name(raw)}: {rollout['phase']}" + (f": {rollout['message']}" if rollout.get("message") else "")]
    lines.append(
        f"  stable      {rollout['stable']}{'' if rollout.get('proven') else ' (has not answered a request yet)'}"
    )
    if rollout.get("candidate"):
        steps = rollout.get("steps") or ()
        lines.append(f"  candidate   {rollout['candidate']}, attempt {rollout.get('attempt', 0)}")
        lines.append(f"  step        {rollout.get('step', 0)} of {len(steps)}, {rollout.get('weight', 0)} %")
        lines.append(
            f"  since       {age(rollout.get('stepSince'), now)} (prepared {age(rollout.get('enteredAt'), now)} ago)"
        )
    if rollout.get("rejected"):
        rejected = rollout["rejected"]
        lines.append(
            f"  taken back  {rejected['revision']} {age(rejected['at'], now)} ago: {rejected.get('reason', '')}"
        )
    parts = ["\n".join(lines)]
    if rollout.get("gates"):
        gates = [(gate["metric"], gate["state"], gate.get("message", "")) for gate in rollout["gates"]]
        parts.append(table(("GATE", "STATE", "MESSAGE"), gates))
    shares = [
        (entry["gateway"], share["revision"], f"{share['percent']} %", *_counts(share))
        for entry in rollout.get("traffic") or ()
        for share in entry.get("shares") or ()
    ]
    if shares:
        parts.append(table(("GATEWAY", "REVISION", "SHARE", "REQUESTS", "MIRRORED", "ERRORS"), shares))
    revisions = [
        (one["revision"], one["state"], age(one["since"], now), one.get("reason", ""))
        for one in rollout.get("revisions") or ()
    ]
    if revisions:
        parts.append(table(("REVISION", "STATE", "SINCE", "REASON"), revisions))
    decisions = [
        (age(one["at"], now), one["revision"], one["action"], one["reason"]) for one in rollout.get("decisions") or ()
    ]
    if decisions:
        parts.append(table(("AGE", "REVISION", "DECISION", "REASON"), decisions))
    return "\n\n".join(parts)


def _counts(share: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(share.get(name, 0)) for name in ("requests", "mirrored", "errors"))


def _annotation(word: str, value: str | None) -> Patch:
    return {"metadata": {"annotations": {PREFIX + word: value}}}


def _wished(raw: JsonObject) -> Mapping[str, Any]:
    """What the spec says about rollouts."""
    return dict(raw["spec"].get("rollout") or {})


def _rollout(raw: JsonObject) -> Mapping[str, Any]:
    found = (raw.get("status") or {}).get("rollout")
    if not found:
        steps = _wished(raw).get("steps")
        why = "nothing was told about it yet" if steps else f"spec.rollout.steps is {NONE}"
        raise NothingToDo(f"{_name(raw)} has no rollout: {why}")
    return dict(found)


def _attempt(raw: JsonObject) -> str:
    """The attempt that is under way, as annotations name it."""
    rollout = _rollout(raw)
    if not rollout.get("candidate"):
        raise NothingToDo(f"{_name(raw)}: no revision is being rolled out ({rollout['phase']})")
    return f"{rollout['candidate']}/{rollout.get('attempt', 0)}"


def _name(raw: JsonObject) -> str:
    return f"{raw['metadata'].get('namespace', '')}/{raw['metadata']['name']}"
