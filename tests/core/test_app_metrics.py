"""What replicas and routers count, with instruments that only remember."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

from autoglm_serving.app.metrics import ReplicaMetrics, RouterMetrics
from autoglm_serving.engines.interface import EngineStats
from autoglm_serving.vision.cache import CacheFigures

Values = dict[tuple[str, str], float]
STATS = EngineStats(
    running=1, waiting=2, max_running=4, max_waiting=8, kv_tokens=0, finished_total=0, cancelled_total=0, refused_total=0,
    failed_total=0, prompt_tokens_total=100, completion_tokens_total=20, cached_tokens_total=60,
    caches={"prefix": CacheFigures(entries=3, held_bytes=300, hits=5, misses=2, evictions=1, refused=0)},
)  # fmt: skip


class Instruments:
    """Makes counters and gauges whose values are in `values`, by name and the value of their label."""

    def __init__(self) -> None:
        self.values: Values = defaultdict(float)

    def make(self, name: str, description: str, tag_keys: tuple[str, ...] = ()) -> Any:
        assert description
        values = self.values

        class Instrument:
            def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
                assert value > 0, "Ray refuses to count nothing"
                values[self._key(tags)] += value

            def set(self, value: float, tags: dict[str, str] | None = None) -> None:
                values[self._key(tags)] = value

            def _key(self, tags: dict[str, str] | None) -> tuple[str, str]:
                assert tuple(tags or {}) == tag_keys, "Ray wants a value for each label"
                return name, next(iter((tags or {}).values()), "")

        return Instrument()


def test_a_replica_counts_what_its_caches_did_since_the_last_time() -> None:
    instruments = Instruments()
    metrics = ReplicaMetrics(instruments.make, instruments.make)
    metrics.publish(STATS, {"decoded": CacheFigures(1, 30, 0, 1, 0, 0)})
    metrics.publish(STATS, {"decoded": CacheFigures(1, 30, 0, 1, 0, 0)})
    later = replace(STATS.caches["prefix"], entries=1, held_bytes=100, hits=9)
    metrics.publish(replace(STATS, running=0, cached_tokens_total=90, caches={"prefix": later}), {})
    assert instruments.values == {
        ("autoglm_cache_hits", "prefix"): 9,
        ("autoglm_cache_misses", "prefix"): 2,
        ("autoglm_cache_evictions", "prefix"): 1,
        ("autoglm_cache_bytes", "prefix"): 100,
        ("autoglm_cache_entries", "prefix"): 1,
        ("autoglm_cache_misses", "decoded"): 1,
        ("autoglm_cache_bytes", "decoded"): 30,
        ("autoglm_cache_entries", "decoded"): 1,
        ("autoglm_prompt_tokens", ""): 100,
        ("autoglm_cached_tokens", ""): 90,
        ("autoglm_completion_tokens", ""): 20,
        ("autoglm_engine_running", ""): 0,
        ("autoglm_engine_waiting", ""): 2,
    }


def test_a_router_counts_by_reason() -> None:
    instruments = Instruments()
    metrics = RouterMetrics(instruments.make)
    metrics.sent("cached-prefix")
    metrics.sent("least-work")
    metrics.sent("cached-prefix")
    assert instruments.values == {
        ("autoglm_replica_choices", "cached-prefix"): 2,
        ("autoglm_replica_choices", "least-work"): 1,
    }


def test_a_replica_tells_what_the_parts_of_its_start_took() -> None:
    instruments = Instruments()
    ReplicaMetrics(instruments.make, instruments.make).started({"weights": 4.5, "rest": 0.5})
    assert instruments.values == {("autoglm_start_seconds", "weights"): 4.5, ("autoglm_start_seconds", "rest"): 0.5}
