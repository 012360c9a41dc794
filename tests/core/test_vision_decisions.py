"""Down-sampling, early exit, batches and the cache keep their bounds and say why."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoglm_serving.vision.batching import BatchLimits, Item, batches, padded_tokens
from autoglm_serving.vision.cache import ByteCache, key
from autoglm_serving.vision.downsampling import Budget, downsample, load_step
from autoglm_serving.vision.early_exit import ExitPolicy, decide, expected_cost, stage_reached
from autoglm_serving.vision.sizing import image_tokens

PHONE = (1080, 2400)


def by_pixels(width: int, height: int) -> float:
    """A second for each megapixel."""
    return width * height / 1e6


@pytest.mark.parametrize(("load", "step"), [(0, 1), (0.24, 1), (0.49, 1), (0.5, 2), (0.75, 3), (1, 4), (7, 4), (-1, 1)])
def test_the_articles_step(load: float, step: int) -> None:
    assert load_step(load) == step


def test_an_idle_server_that_is_fast_enough_gets_the_whole_picture() -> None:
    chosen = downsample(PHONE, 0.0, Budget(3.0, 480), by_pixels)
    assert ((chosen.width, chosen.height), chosen.step, chosen.reason) == (PHONE, 1, "fits")


def test_load_alone_shrinks() -> None:
    chosen = downsample(PHONE, 1.0, Budget(3.0, 480), by_pixels)
    assert ((chosen.width, chosen.height), chosen.step, chosen.reason) == ((540, 1200), 4, "load")


def test_a_deadline_shrinks_further_than_the_load() -> None:
    chosen = downsample(PHONE, 0.0, Budget(1.0, 480), by_pixels)
    assert (chosen.step, chosen.reason) == (3, "deadline")
    assert chosen.predicted_s <= 1.0


def test_the_floor_ends_it_though_the_deadline_is_missed() -> None:
    chosen = downsample(PHONE, 0.3, Budget(0.1, 480), by_pixels)
    assert (min(chosen.width, chosen.height), chosen.reason) == (480, "floor")
    assert chosen.predicted_s > 0.1


def test_a_picture_below_the_floor_is_left_alone() -> None:
    chosen = downsample((200, 300), 1.0, Budget(0.0, 480), by_pixels)
    assert ((chosen.width, chosen.height), chosen.reason) == ((200, 300), "floor")


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.floats(0, 10), st.integers(28, 1200))
def test_the_floor_and_the_deadline_hold(width: int, height: int, load: float, deadline: float, floor: int) -> None:
    chosen = downsample((width, height), load, Budget(deadline, floor), by_pixels)
    assert min(chosen.width, chosen.height) >= min(floor, width, height)
    assert chosen.predicted_s <= deadline or chosen.reason == "floor"
    if chosen.reason == "fits":
        assert (chosen.width, chosen.height) == (width, height)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_load_never_sends_more_pixels(one: float, other: float) -> None:
    low, high = sorted((one, other))
    budget = Budget(1.5, 300)
    less, more = (downsample(PHONE, load, budget, by_pixels) for load in (high, low))
    assert less.width <= more.width


POLICY = ExitPolicy(enter=0.9, leave=0.8)


@pytest.mark.parametrize(
    ("confidence", "last", "before", "stops", "reason"),
    [
        (0.95, False, False, True, "sure"),
        (0.85, False, False, False, "unsure"),
        (0.85, False, True, True, "still_sure"),
        (0.79, False, True, False, "unsure"),
        (0.10, True, False, True, "last_stage"),
    ],
)
def test_early_exit(confidence: float, last: bool, before: bool, stops: bool, reason: str) -> None:
    made = decide(POLICY, confidence, last=last, stopped_before=before)
    assert (made.stops, made.reason) == (stops, reason)


def test_a_stream_between_the_thresholds_does_not_flap() -> None:
    stages = [stage_reached(POLICY, [0.95, 1.0])]
    for confidence in (0.85, 0.89, 0.81, 0.88):
        stages.append(stage_reached(POLICY, [confidence, 1.0], stages[-1]))
    assert stages == [0] * 5
    assert stage_reached(POLICY, [0.85, 1.0], previous=1) == 1


def test_early_exit_saves_what_later_stages_cost() -> None:
    assert expected_cost([1.0, 3.0], [0, 0, 1]) == pytest.approx(2.0)


@pytest.mark.parametrize(("enter", "leave"), [(0.5, 0.6), (1.1, 0.5), (0.5, -0.1)])
def test_thresholds_out_of_order_are_refused(enter: float, leave: float) -> None:
    with pytest.raises(ValueError, match="leave <= enter"):
        ExitPolicy(enter, leave)


ITEMS = st.lists(st.tuples(st.sampled_from([(1080, 2400), (1085, 2401), (720, 1600), (1200, 800)])), max_size=40).map(
    lambda sizes: [Item(str(i), *size) for i, (size,) in enumerate(sizes)]
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ITEMS, st.integers(1, 8), st.integers(1, 20_000))
def test_batches_hold_every_picture_once_within_their_bounds(items: list[Item], most: int, tokens: int) -> None:
    made = batches(items, BatchLimits(most, tokens))
    assert sorted(key for batch in made for key in batch.keys) == sorted(item.key for item in items)
    sizes = {item.key: image_tokens(item.width, item.height) for item in items}
    for batch in made:
        assert len(batch.keys) <= most
        assert batch.tokens <= tokens or len(batch.keys) == 1
        assert batch.tokens == sum(sizes[each] for each in batch.keys)
        assert list(batch.keys) == sorted(batch.keys, key=int)


def test_pictures_that_the_model_sees_alike_share_a_batch_without_padding() -> None:
    items = [Item("a", 1080, 2400), Item("b", 1085, 2401), Item("c", 720, 1600)]
    made = batches(items, BatchLimits(8, 100_000))
    assert [(batch.keys, batch.reason) for batch in made] == [(("a", "b"), "end"), (("c",), "end")]
    assert padded_tokens(items, BatchLimits()) == 3354 - 1482


def test_a_batch_says_which_bound_closed_it() -> None:
    items = [Item(str(i), 720, 1600) for i in range(3)]
    assert [batch.reason for batch in batches(items, BatchLimits(2, 100_000))] == ["full", "end"]
    assert [batch.reason for batch in batches(items, BatchLimits(9, 3000))] == ["tokens", "end"]


def test_keys_differ_by_tenant_preparation_and_content() -> None:
    keys = {key("a", b"x", "p"), key("b", b"x", "p"), key("a", b"y", "p"), key("a", b"x", "q"), key("", b"x", "ap")}
    assert len(keys) == 5
    assert key("ab", b"", "c") != key("a", b"", "bc")


def test_the_least_recently_used_goes_first() -> None:
    cache: ByteCache[str] = ByteCache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.get("a") == "A"
    assert cache.put("c", "C", 4) == ("b",)
    assert (cache.get("b"), cache.get("a"), cache.get("c")) == (None, "A", "C")
    figures = cache.figures
    assert (figures.entries, figures.held_bytes, figures.hits, figures.misses, figures.evictions) == (2, 8, 3, 1, 1)


def test_a_value_larger_than_the_cache_is_not_kept_and_removes_only_its_old_self() -> None:
    cache: ByteCache[str] = ByteCache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 4)
    assert cache.put("a", "AA", 11) == ()
    assert (cache.get("a"), cache.get("b"), cache.figures.refused) == (None, "B", 1)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60))), st.integers(0, 100))
def test_the_cache_never_holds_more_than_its_bytes(puts: list[tuple[str, int]], capacity: int) -> None:
    cache: ByteCache[int] = ByteCache(capacity)
    latest: dict[str, int] = {}
    for name, size in puts:
        for gone in cache.put(name, size, size):
            del latest[gone]
        latest.pop(name, None)
        if size <= capacity:
            latest[name] = size
        assert cache.figures.held_bytes == sum(latest.values()) <= capacity
    assert {name: cache.get(name) for name in latest} == latest
