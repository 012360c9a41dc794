"""The quality model answers from measurements, never says that pixels hurt, and says what it does not know."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoglm_operator.api import ResolutionSpec
from autoglm_serving.routing_table import MeasuredQuality, ResolutionPolicy
from autoglm_serving.vision.quality import EVERY_KIND, Quality, QualityTable, interval, load


def quality(*rows: tuple[str, int, int, int]) -> Quality:
    measurements = tuple(
        MeasuredQuality(kind=kind, short_side=side, right=right, samples=samples) for kind, side, right, samples in rows
    )
    return Quality(QualityTable(model="m", source="s", measured="2026-11-26", measurements=measurements))


PHONES = quality(("phone", 480, 50, 100), ("phone", 720, 80, 100), ("phone", 1080, 90, 100), ("tablet", 1080, 40, 50))


def test_what_is_lost_at_540_is_read_between_the_measurements() -> None:
    answer = PHONES.loss_at(540, "phone")
    assert answer.accuracy == pytest.approx(0.5 + 0.25 * 0.3)
    assert answer.loss == pytest.approx(0.9 - answer.accuracy)
    assert (answer.basis, answer.samples, answer.kind) == ("between", 100, "phone")
    assert answer.interval.low < answer.accuracy < answer.interval.high
    assert answer.source == "m, 2026-11-26: s"


@pytest.mark.parametrize(
    ("side", "accuracy", "basis"), [(100, 0.5, "below_range"), (720, 0.8, "measured"), (4000, 0.9, "above_range")]
)
def test_the_answer_says_what_it_rests_on(side: int, accuracy: float, basis: str) -> None:
    answer = PHONES.loss_at(side, "phone")
    assert (answer.accuracy, answer.basis) == (accuracy, basis)


def test_a_kind_that_was_never_measured_is_answered_by_all_kinds_together() -> None:
    answer = PHONES.loss_at(1080, "kiosk")
    assert answer.kind == EVERY_KIND
    assert answer.accuracy == pytest.approx(130 / 150)
    assert PHONES.kinds == ("phone", "tablet")


def test_rows_for_all_kinds_together_are_not_counted_again() -> None:
    table = quality(("*", 1080, 30, 40), ("phone", 1080, 20, 20), ("kiosk", 1080, 10, 20))
    answer = table.loss_at(1080)
    assert (answer.accuracy, answer.samples) == (0.75, 40)
    assert table.kinds == ("kiosk", "phone")


def test_a_dip_is_taken_for_noise_and_pooled() -> None:
    dip = quality(("phone", 480, 60, 100), ("phone", 720, 90, 100), ("phone", 1080, 80, 100))
    assert [dip.loss_at(side, "phone").accuracy for side in (480, 720, 1080)] == [0.6, 0.85, 0.85]
    assert dip.smallest_within(0.0, "phone") == 720


def test_the_smallest_size_within_a_loss() -> None:
    assert [PHONES.smallest_within(loss, "phone") for loss in (0, 0.1, 0.11, 0.4)] == [1080, 720, 720, 480]
    assert PHONES.smallest_within(-1, "phone") == 1080


ROWS = st.lists(
    st.tuples(st.sampled_from(["phone", "kiosk"]), st.integers(100, 2000), st.integers(0, 50), st.integers(50, 60)),
    min_size=1,
    max_size=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["phone", "kiosk", "other"]))
def test_more_pixels_never_count_as_worse(
    rows: list[tuple[str, int, int, int]], one: int, other: int, kind: str
) -> None:
    model = quality(*rows)
    low, high = sorted((one, other))
    assert model.loss_at(low, kind).accuracy <= model.loss_at(high, kind).accuracy + 1e-12
    assert 0 <= model.loss_at(low, kind).loss <= 1


@given(st.integers(1, 1000), st.data())
def test_the_interval_holds_the_share_and_stays_between_0_and_1(samples: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, samples)) / samples
    low, high = interval(share, samples)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert low < high


def document(**changes: Any) -> str:
    row = {"kind": "phone", "shortSide": 480, "right": 5, "samples": 10}
    table = {"model": "m", "source": "s", "measured": "2026-11-26", "measurements": [row]}
    return json.dumps({**table, **changes})


def test_a_table_is_read_from_json() -> None:
    assert load(document()).loss_at(480, "phone").accuracy == 0.5


def test_a_table_that_was_written_goes_into_a_manifest_as_it_is_and_on_to_the_gateway() -> None:
    rows = json.loads(PHONES.table.text())["measurements"]
    assert rows[0] == {"kind": "phone", "shortSide": 480, "right": 50, "samples": 100}
    spec = ResolutionSpec.model_validate({"mode": "dynamic", "quality": rows})
    policy = ResolutionPolicy(
        quality=tuple(MeasuredQuality.model_validate(each.model_dump()) for each in spec.quality or ())
    )
    assert policy.quality == PHONES.table.measurements
    assert load(PHONES.table.text()).table == PHONES.table


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"measured": "yesterday"}, "measured"),
        ({"measurements": []}, "measurements"),
        (
            {"measurements": [{"kind": "p", "shortSide": 480, "right": 11, "samples": 10}]},
            "right must not be above samples",
        ),
        ({"typo": 1}, "typo"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        load(document(**changes))
