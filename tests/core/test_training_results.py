"""Intervals and the tables of an evaluation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.training.curves import smoothed
from autoglm_serving.training.intervals import wilson
from autoglm_serving.training.results import Verdict, count, markdown, quality_table, to_json


def verdict(right: bool, kind: str = "phone", side: int = 252, type_: str = "tap") -> Verdict:
    return Verdict("s", "t", kind, type_, "en", side, 180, right, 0.5, "")


def test_wilsons_interval_has_the_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, method 3 (score without continuity correction).
    share = wilson(81, 263)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    share = wilson(0, 20)
    assert (round(share.low, 4), round(share.high, 4)) == (0.0, 0.1611)


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_share_lies_in_its_interval(right: int, wrong: int) -> None:
    share = wilson(right, right + wrong)
    assert 0 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1 or share.total == 0


def test_nothing_asked_says_nothing_and_more_right_than_asked_is_refused() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


def test_verdicts_are_counted_by_size_screen_and_task() -> None:
    rows = count([verdict(True), verdict(False), verdict(True, "desktop", 336, "finish")])
    found = {(row.group, row.name, row.short_side): (row.share.right, row.share.total) for row in rows}
    assert found["all", "all tasks", 252] == (1, 2)
    assert found["all", "all tasks", 336] == (1, 1)
    assert found["kind", "desktop", 336] == (1, 1)
    assert found["task", "finish", 336] == (1, 1)
    assert found["taps by kind", "phone", 252] == (1, 2)
    assert ("taps by kind", "desktop", 336) not in found
    assert to_json(rows)[0]["accuracy"] == 0.5


def test_the_table_has_a_column_for_each_size_and_holes_where_nothing_was_asked() -> None:
    table = markdown(count([verdict(True), verdict(True, "desktop", 336)]))
    assert "| kind | tasks | 252 px | 336 px |" in table
    assert "| phone | 1 | 100.0 % (20.7 to 100.0) |  |" in table


def test_the_router_gets_accuracy_by_kind_and_over_all() -> None:
    table = quality_table(count([verdict(True), verdict(False, "desktop")]), "m", "s", "2026-01-31")
    assert {(each.kind, each.right, each.samples) for each in table.measurements} == {
        ("*", 1, 2),
        ("phone", 1, 1),
        ("desktop", 0, 1),
    }


def test_curves_are_means_of_equal_parts() -> None:
    assert smoothed([1, 3, 5, 7], 2) == [(0.25, 2), (0.75, 6)]
    assert smoothed([4], 10) == [(0.5, 4)]
    assert smoothed([]) == []
