"""Picking an endpoint: who is a candidate, who is best, who is next."""

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.images import ImageSize
from autoglm_serving.routing import (
    EndpointState,
    Features,
    NoEndpoint,
    Pick,
    Profile,
    RequestCost,
    Weights,
    features,
    learn,
    own_work,
    pick,
    score,
    trusted,
    typical,
)
from autoglm_serving.routing_table import TasksSolved, Variant, VariantPolicy

SHOT = ImageSize(1080, 2400, "png")
REQUEST = RequestCost("id-1", body_bytes=1_200_000, text_characters=3000, images=(SHOT,))
NOW = 100.0


def endpoint(name: str, **changes: Any) -> EndpointState:
    return dataclasses.replace(EndpointState(name=name, site=f"site-{name}"), **changes)


def picked(*endpoints: EndpointState, profile: Profile = Profile(), request: RequestCost = REQUEST) -> Pick:  # noqa: B008
    result = pick(request, endpoints, profile, NOW)
    assert isinstance(result, Pick)
    return result


def order(result: Pick) -> list[str]:
    return [attempt.name for attempt in result.attempts]


def test_less_queued_work_wins() -> None:
    result = picked(endpoint("a", queued_work_s=3.0), endpoint("b", queued_work_s=1.0))
    assert order(result) == ["b", "a"]
    assert result.reason == "least_work"


def test_a_thin_link_costs_its_upload_time() -> None:
    thin = endpoint("edge", bandwidth_bps=2_000_000, rtt_s=0.02)
    busy = endpoint("cloud", queued_work_s=3.0, rtt_s=0.05)
    result = picked(thin, busy)
    assert result.chosen.name == "cloud"
    scores = {s.endpoint: s for s in result.scores}
    assert scores["edge"].upload_s == pytest.approx(4.8)
    assert scores["edge"].round_trip_s == 0.02
    assert scores["cloud"].queue_s == 3.0


def test_a_small_request_goes_where_a_large_one_does_not() -> None:
    thin, busy = endpoint("edge", bandwidth_bps=2_000_000), endpoint("cloud", queued_work_s=1.0)
    small = RequestCost("id-2", body_bytes=2_000, text_characters=100)
    assert picked(thin, busy).chosen.name == "cloud"
    assert picked(thin, busy, request=small).chosen.name == "edge"


def test_a_slower_accelerator_gets_the_request_only_when_the_fast_one_is_full() -> None:
    slow = endpoint("npu", weights=Weights(thousand_image_tokens=1.0))
    fast = endpoint("gpu", weights=Weights(thousand_image_tokens=0.1))
    assert picked(slow, fast).chosen.name == "gpu"
    assert picked(slow, dataclasses.replace(fast, queued_work_s=20.0)).chosen.name == "npu"


def test_ties_go_to_the_endpoint_with_fewer_requests() -> None:
    assert picked(endpoint("a", in_flight=2), endpoint("b", in_flight=1)).chosen.name == "b"


def test_full_ties_are_spread_by_request_and_not_by_name() -> None:
    ends = [endpoint(name) for name in "abcd"]
    counts = dict.fromkeys("abcd", 0)
    for number in range(400):
        request = dataclasses.replace(REQUEST, request_id=str(number))
        chosen = picked(*ends, request=request).chosen.name
        assert picked(*reversed(ends), request=request).chosen.name == chosen
        counts[chosen] += 1
    assert min(counts.values()) > 60


def test_round_robin_takes_turns_whatever_the_load() -> None:
    ends = (endpoint("b", queued_work_s=9.0), endpoint("a"), endpoint("c"))
    chosen = [picked(*ends, profile=Profile("roundRobin", turn=turn)).chosen.name for turn in range(6)]
    assert chosen == ["a", "b", "c", "a", "b", "c"]


def test_the_cheapest_that_meets_the_target_is_taken() -> None:
    fast, cheap = endpoint("fast", price=3.0), endpoint("cheap", price=1.0, queued_work_s=1.0)
    assert picked(fast, cheap, profile=Profile(ttft_target_s=4.0)).chosen.name == "cheap"
    assert picked(fast, cheap, profile=Profile(ttft_target_s=4.0)).reason == "cheapest_on_target"
    assert picked(fast, cheap, profile=Profile(ttft_target_s=2.0)).chosen.name == "fast"


def test_when_none_meets_the_target_the_fastest_is_taken() -> None:
    late, later = endpoint("late", queued_work_s=5.0, price=9.0), endpoint("later", queued_work_s=6.0)
    result = picked(late, later, profile=Profile(ttft_target_s=1.0))
    assert (result.chosen.name, result.reason) == ("late", "least_work")


def test_an_endpoint_that_does_not_answer_is_never_tried() -> None:
    result = picked(endpoint("a", answers=False), endpoint("b"), profile=Profile(retries=3))
    assert set(order(result)) == {"b"}
    assert result.reason == "only_endpoint"


def test_an_open_breaker_leaves_the_endpoint_in_reserve() -> None:
    broken = endpoint("a", breaker_open_until=NOW + 5)
    result = picked(broken, endpoint("b", queued_work_s=50.0))
    assert order(result) == ["b", "a"]
    assert [s.endpoint for s in result.scores] == ["b"]
    assert (
        order(picked(dataclasses.replace(broken, breaker_open_until=NOW), endpoint("b", queued_work_s=50.0)))[0] == "a"
    )


def test_when_every_breaker_is_open_the_request_is_tried_all_the_same() -> None:
    result = picked(endpoint("a", breaker_open_until=NOW + 5), endpoint("b", breaker_open_until=NOW + 9))
    assert result.reason == "last_resort"
    assert set(order(result)) == {"a", "b"}


def test_the_wanted_revision_comes_first_and_the_old_one_serves_until_it_is_there() -> None:
    old, new = endpoint("old", wanted_revision=False), endpoint("new", queued_work_s=9.0)
    assert order(picked(old, new)) == ["new", "old"]
    result = picked(old)
    assert (result.chosen.name, result.reason) == ("old", "old_revision")


INT8 = VariantPolicy(
    base=TasksSolved(right=40, samples=100),
    variants=(
        Variant(name="int8", quality=TasksSolved(right=38, samples=100)),
        Variant(name="int4", quality=TasksSolved(right=30, samples=100)),
    ),
    floor=0.9,
)


def test_a_variant_below_the_floor_is_never_tried_and_the_pick_says_why() -> None:
    ends = (
        endpoint("a", variant="int4"),
        endpoint("b", variant="int8", queued_work_s=9.0),
        endpoint("c", answers=False),
    )
    result = picked(*ends, profile=Profile(variants=INT8, retries=3))
    assert set(order(result)) == {"b"}
    assert [(one.endpoint, one.site, one.variant) for one in result.left_out] == [("a", "site-a", "int4")]
    assert "0.7500 of what the model itself solves, and the floor is 0.9" in result.left_out[0].why
    assert result.scores[0].variant == "int8"
    assert order(picked(*ends, profile=Profile(variants=INT8.model_copy(update={"floor": None})))) == ["a", "b"]
    assert order(picked(*ends)) == ["a", "b"], "a deployment without variants has no floor"


def test_rather_no_answer_than_one_below_the_floor_also_from_an_old_revision() -> None:
    """The floor was raised, and the one site still runs what is below it."""
    old = endpoint("a", variant="int4", wanted_revision=False)
    result = pick(REQUEST, [old], Profile(variants=INT8), NOW)
    assert isinstance(result, NoEndpoint)
    assert "site-a runs variant int4: it solves 0.7500" in result.message
    assert [one.endpoint for one in result.left_out] == ["a"]
    assert order(picked(dataclasses.replace(old, variant="base"), profile=Profile(variants=INT8)))[0] == "a"
    unknown = pick(REQUEST, [dataclasses.replace(old, variant="gone")], Profile(variants=INT8), NOW)
    assert isinstance(unknown, NoEndpoint)
    assert "nobody has measured" in unknown.message


@given(
    st.lists(st.tuples(st.sampled_from(["base", "int8", "int4"]), st.booleans(), st.booleans()), min_size=1, max_size=6)
)
def test_no_attempt_is_below_the_floor(given_ends: list[tuple[str, bool, bool]]) -> None:
    ends = [
        endpoint(str(number), variant=variant, answers=answers, wanted_revision=wanted)
        for number, (variant, answers, wanted) in enumerate(given_ends)
    ]
    result = pick(REQUEST, ends, Profile(variants=INT8, retries=5), NOW)
    usable = [end for end in ends if end.answers and end.variant != "int4"]
    assert isinstance(result, Pick) == bool(usable)
    if isinstance(result, Pick):
        assert {attempt.name for attempt in result.attempts} <= {end.name for end in usable}
    assert len(result.left_out) == sum(end.answers and end.variant == "int4" for end in ends)


def test_retries_go_to_other_endpoints_with_the_same_path() -> None:
    ends = (
        endpoint("a", path="/x"),
        endpoint("b", path="/y", queued_work_s=1.0),
        endpoint("c", path="/x", queued_work_s=2.0),
    )
    assert order(picked(*ends, profile=Profile(retries=1))) == ["a", "c"]


def test_with_one_endpoint_the_retry_goes_there_again() -> None:
    assert order(picked(endpoint("a"), profile=Profile(retries=2))) == ["a", "a", "a"]
    assert order(picked(endpoint("a"), profile=Profile(retries=0))) == ["a"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [((), "no site yet"), ((endpoint("a", answers=False),), "none of the 1 endpoints")],
)
def test_the_absence_of_endpoints_is_explained(ends: tuple[EndpointState, ...], words: str) -> None:
    result = pick(REQUEST, ends, Profile(), NOW)
    assert isinstance(result, NoEndpoint)
    assert words in result.message


def test_the_pixel_limit_makes_a_request_cheaper() -> None:
    full, small = score(REQUEST, endpoint("a")), score(REQUEST, endpoint("a"), max_pixels=540 * 1200)
    assert small.work_s < full.work_s


def test_weights_follow_measured_times() -> None:
    """A server with other speeds than the guess is known after some requests of different sizes."""
    truth = Weights(0.2, 1.5, 0.4, 2.0, 0.25)
    weights, dice = Weights(), random.Random(1)

    def seconds(seen: Features) -> float:
        return float(sum(a * b for a, b in zip(dataclasses.astuple(truth), seen, strict=True)))

    def sample() -> Features:
        request = RequestCost(
            "x",
            body_bytes=1000,
            text_characters=dice.randint(100, 20_000),
            images=(SHOT,) * dice.randint(0, 2),
            streams=dice.random() < 0.5,
        )
        return features(request, dice.uniform(0, 10), None)

    for _ in range(3000):
        seen = sample()
        weights = learn(weights, seen, seconds(seen) * dice.uniform(0.95, 1.05))
    for _ in range(50):
        seen = sample()
        predicted = sum(a * b for a, b in zip(dataclasses.astuple(weights), seen, strict=True))
        assert predicted == pytest.approx(seconds(seen), rel=0.25, abs=0.3)


def test_an_endpoint_nobody_tried_shares_a_burst_with_a_measured_peer() -> None:
    """The peer was measured to be fast. That must not keep the other idle while the peer's queue grows."""
    fast = Weights(fixed=0.01, thousand_image_tokens=0.01, whole_answer=0.0)
    ends = {name: endpoint(name, weights=trusted(Weights(), typical([fast]), 0, 0.0)) for name in "ab"}
    ends["a"] = endpoint("a", weights=trusted(fast, typical([fast]), 50, 0.0))
    counts = dict.fromkeys("ab", 0)
    for number in range(100):
        chosen = picked(*ends.values(), request=dataclasses.replace(REQUEST, request_id=str(number))).chosen
        counts[chosen.name] += 1
        work = own_work(REQUEST, chosen.weights)
        busier = dataclasses.replace(chosen, queued_work_s=chosen.queued_work_s + work, in_flight=chosen.in_flight + 1)
        ends[chosen.name] = busier
    assert counts["a"] == pytest.approx(50, abs=2)


def test_old_measurements_fade_so_that_a_slow_endpoint_gets_another_chance() -> None:
    slow, peers = Weights(fixed=30.0), Weights(fixed=0.1)
    assert trusted(slow, peers, samples=1000, idle_s=0.0).fixed == pytest.approx(30, rel=0.01)
    assert trusted(slow, peers, samples=1000, idle_s=60.0).fixed == pytest.approx(15, rel=0.01)
    assert trusted(slow, peers, samples=1000, idle_s=1200.0).fixed == pytest.approx(0.1, rel=0.01)
    assert trusted(slow, peers, samples=0, idle_s=0.0) == peers
    assert typical([]) == Weights()
    assert typical([slow, peers]).fixed == pytest.approx(15.05)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_no_measurement_can_spoil_the_weights(measured: list[float]) -> None:
    weights = Weights()
    for seconds in measured:
        weights = learn(weights, features(REQUEST, 1.0), seconds)
    assert all(0 <= value <= 600 for value in dataclasses.astuple(weights))
    assert own_work(REQUEST, weights) >= 0
