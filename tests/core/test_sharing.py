"""Sessions are shared by weight, stay where they are, and never go to a canary that is not admitted."""

from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.measurements import GROWTH, RevisionReport, Sketch, bucket, merged
from autoglm_serving.sharing import applied, is_mirrored, place, side

percent = st.integers(0, 100)


@given(st.text(), st.text(), percent, st.booleans(), st.booleans())
def test_no_session_goes_to_a_canary_without_weight_or_admission(
    session: str, salt: str, weight: int, stable: bool, admitted: bool
) -> None:
    at = place(session, salt)
    assert 0 <= at < 100
    found = side(at, weight, stable_answers=stable, canary_admitted=admitted)
    assert found == "stable" or (weight > 0 and admitted)
    assert side(at, 100, stable_answers=stable, canary_admitted=True) == "canary"
    assert side(at, 0, stable_answers=stable, canary_admitted=True) == "stable"


@given(st.text(), st.text(), percent, percent)
def test_a_session_on_the_canary_stays_there_while_the_weight_grows(session: str, salt: str, a: int, b: int) -> None:
    low, high = sorted((a, b))
    at = place(session, salt)
    if side(at, low, stable_answers=True, canary_admitted=True) == "canary":
        assert side(at, high, stable_answers=True, canary_admitted=True) == "canary"


@given(percent, st.booleans(), st.booleans())
def test_what_is_reported_as_applied_is_what_sessions_get(weight: int, stable: bool, admitted: bool) -> None:
    sessions = [side(place(str(n), "r2"), weight, stable_answers=stable, canary_admitted=admitted) for n in range(1000)]
    share = applied(weight, stable_answers=stable, canary_admitted=admitted)
    assert abs(sessions.count("canary") / 10 - share) < 5
    assert (share == 0) == ("canary" not in sessions)


def test_mirroring_takes_about_the_asked_share_of_requests() -> None:
    assert not any(is_mirrored(str(number), 0) for number in range(100))
    assert all(is_mirrored(str(number), 100) for number in range(100))
    assert 200 < sum(is_mirrored(str(number), 25) for number in range(1000)) < 300


@given(st.lists(st.floats(0.001, 3600), min_size=1), st.floats(0.01, 1))
def test_a_percentile_of_a_sketch_is_right_to_within_a_bucket(seconds: list[float], share: float) -> None:
    counts: dict[int, int] = {}
    for value in seconds:
        counts[bucket(value)] = counts.get(bucket(value), 0) + 1
    found = Sketch.model_validate_json(Sketch(counts=counts).model_dump_json()).quantile(share)
    assert found is not None
    exact = next(value for value in sorted(seconds) if sum(other <= value for other in seconds) >= share * len(seconds))
    assert exact / GROWTH <= found <= exact * GROWTH


def test_no_durations_have_no_percentile() -> None:
    assert Sketch().quantile(0.95) is None


def test_reports_of_several_gateways_add_up_and_the_smallest_weight_counts() -> None:
    def report(weight: int, errors: int, counts: dict[int, int]) -> RevisionReport:
        return RevisionReport(
            deployment="a/b", revision="r2", role="canary", weight=weight, errors=errors, ttft=Sketch(counts=counts)
        )

    found = merged([report(20, 1, {3: 2}), report(0, 2, {3: 1, 4: 5})])
    assert found is not None
    assert (found.weight, found.errors, found.ttft.counts) == (0, 3, {3: 3, 4: 5})
    assert merged([]) is None
