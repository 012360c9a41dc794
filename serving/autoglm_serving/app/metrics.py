"""What engine replicas and routers count for Prometheus, by Ray's metrics: there the names begin with `ray_autoglm_`.

Serve adds application, deployment and replica as labels. No label is content.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.serve import metrics

from autoglm_serving.engines.interface import EngineStats
from autoglm_serving.replica_routing.choice import Reason
from autoglm_serving.vision.cache import CacheFigures

Make = Callable[..., Any]
CACHE = ("cache",)


class RouterMetrics:
    """Counts why the router sent calls where it did."""

    def __init__(self, counter: Make = metrics.Counter) -> None:
        self._choices = counter(
            "autoglm_replica_choices",
            description="Calls sent to an engine replica, by why it was this one.",
            tag_keys=("reason",),
        )

    def sent(self, reason: Reason) -> None:
        self._choices.inc(tags={"reason": reason})


class ReplicaMetrics:
    """An engine replica's caches and tokens. `publish` is called every now and then; engines count from their start."""

    def __init__(self, counter: Make = metrics.Counter, gauge: Make = metrics.Gauge) -> None:
        self._counted: dict[tuple[str, str], int] = {}
        self._looks = {
            "hits": counter(
                "autoglm_cache_hits", description="What was found in a cache of the replica.", tag_keys=CACHE
            ),
            "misses": counter("autoglm_cache_misses", description="What was looked for in vain.", tag_keys=CACHE),
            "evictions": counter("autoglm_cache_evictions", description="What had to make room.", tag_keys=CACHE),
        }
        self._bytes = gauge("autoglm_cache_bytes", description="Bytes in a cache of the replica.", tag_keys=CACHE)
        self._entries = gauge("autoglm_cache_entries", description="Values in a cache of the replica.", tag_keys=CACHE)
        self._tokens = {
            "prompt": counter("autoglm_prompt_tokens", description="Tokens of prompts."),
            "cached": counter("autoglm_cached_tokens", description="Tokens of prompts that were not computed again."),
            "completion": counter("autoglm_completion_tokens", description="Tokens of answers."),
        }
        self._running = gauge("autoglm_engine_running", description="Answers that the engine is making.")
        self._waiting = gauge("autoglm_engine_waiting", description="Calls that wait for a place in the engine.")
        self._start = gauge(
            "autoglm_start_seconds", description="What the replica's start took, by its parts.", tag_keys=("part",)
        )

    def started(self, parts: Mapping[str, float]) -> None:
        """The replica can answer; seconds by part of its start."""
        for part, seconds in parts.items():
            self._start.set(seconds, tags={"part": part})

    def publish(self, stats: EngineStats, others: Mapping[str, CacheFigures]) -> None:
        """`others` are the replica's caches outside its engine, by name."""
        for name, figures in {**stats.caches, **others}.items():
            for what, counter in self._looks.items():
                self._count(counter, (what, name), getattr(figures, what), {"cache": name})
            self._bytes.set(figures.held_bytes, tags={"cache": name})
            self._entries.set(figures.entries, tags={"cache": name})
        totals = {
            "prompt": stats.prompt_tokens_total,
            "cached": stats.cached_tokens_total,
            "completion": stats.completion_tokens_total,
        }
        for what, total in totals.items():
            self._count(self._tokens[what], (what, ""), total, {})
        self._running.set(stats.running, tags={})
        self._waiting.set(stats.waiting, tags={})

    def _count(self, counter: Any, name: tuple[str, str], total: int, tags: dict[str, str]) -> None:
        """Ray's counters take what was added, and nothing below 1."""
        added = total - self._counted.get(name, 0)
        if added > 0:
            counter.inc(added, tags=tags)
            self._counted[name] = total
