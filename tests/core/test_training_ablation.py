"""The ablation table: comparisons task by task, verdicts, and what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.training.ablation.paired import Paired, compare
from autoglm_serving.training.ablation.plan import CHOSEN, REFERENCES, TECHNIQUES, chosen
from autoglm_serving.training.ablation.table import (
    GROUPS,
    Finding,
    Row,
    Table,
    markdown,
    reaches_crop_goal,
    saved_tokens,
    to_json,
    verdict,
)

REFERENCE = Row(
    group=1, name="baseline", against="baseline", short_side=336, right=60, total=100,
    image_tokens=300, gflops=10, latency_ms=200,
)  # fmt: skip


def row(**changes: object) -> Row:
    return Row.model_validate({**REFERENCE.model_dump(), "group": 5, "name": "crop", **changes})


def test_mcnemars_exact_test_has_the_binomials_values() -> None:
    # 8 changed tasks, 1 of them gained: 2 * (1 + 8) / 2^8.
    assert Paired(100, 1, 7).chance == pytest.approx(18 / 256)
    assert not Paired(100, 1, 7).differs
    assert Paired(100, 0, 6).differs
    assert Paired(100, 0, 0).chance == 1
    assert Paired(100, 3, 3).chance == 1


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.booleans()),
    st.dictionaries(st.sampled_from("abcdefgh"), st.booleans()),
)
def test_only_tasks_that_both_answered_are_compared_and_the_two_ways_mirror(
    here: dict[str, bool], there: dict[str, bool]
) -> None:
    one, other = compare(here, there), compare(there, here)
    both = here.keys() & there.keys()
    assert one.total == len(both)
    assert (one.gained, one.lost) == (other.lost, other.gained)
    assert one.gained - one.lost == sum(here[name] for name in both) - sum(there[name] for name in both)
    assert 0 < one.chance <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gained": 2, "lost": 3, "gflops": 6.0}, "pays: no difference shown, 40 % less work"),
        ({"gained": 2, "lost": 3, "gflops": 12.0}, "does not pay: no difference shown, 20 % more work"),
        ({"gained": 0, "lost": 20, "gflops": 6.0}, "worse by 20.0 points, 40 % less work"),
        ({"gained": 20, "lost": 0, "gflops": 15.0}, "better by 20.0 points, 50 % more work"),
        ({"gained": 1, "lost": 1, "gflops": 10.1}, "no difference shown, the same work"),
        ({"total": 19, "right": 9, "gained": 2, "lost": 3, "gflops": 6.0}, "too few tasks to say, 40 % less work"),
        ({"gained": 0, "lost": 20, "new_weights": 1000, "steps": 60}, "worse by 20.0 points, the same work"),
    ],
)
def test_a_verdict_follows_from_the_figures(changes: dict[str, object], said: str) -> None:
    assert verdict(row(**changes), REFERENCE) == said


def test_a_reference_is_not_judged() -> None:
    assert verdict(REFERENCE, REFERENCE) == "reference"


def test_the_crops_goal_is_the_same_accuracy_with_37_percent_fewer_tokens() -> None:
    assert reaches_crop_goal(row(image_tokens=189, gained=1, lost=2), REFERENCE)
    assert not reaches_crop_goal(row(image_tokens=190, gained=1, lost=2), REFERENCE)
    assert not reaches_crop_goal(row(image_tokens=100, gained=0, lost=20), REFERENCE)
    assert saved_tokens(row(image_tokens=150), REFERENCE) == 0.5


def test_each_technique_is_compared_with_a_row_of_the_same_tasks() -> None:
    assert len(CHOSEN) == len(TECHNIQUES)
    for technique in TECHNIQUES:
        reference = CHOSEN[technique.against]
        assert reference.data == technique.data
        assert reference.against == reference.name
    assert {CHOSEN[name].data for name in REFERENCES.values()} == set(REFERENCES)


def test_a_choice_brings_the_rows_that_it_is_compared_with() -> None:
    assert [each.name for each in chosen("rope-scaled, crop-tower")] == [
        "baseline",
        "baseline, beyond",
        "rope-scaled, beyond",
        "crop-tower",
    ]
    assert chosen(None) == TECHNIQUES
    with pytest.raises(KeyError, match="nothing-like-it"):
        chosen("crop,nothing-like-it")


def test_the_page_says_whether_a_crop_reaches_its_goal() -> None:
    made = table()
    crops = (
        row(name="crop-tower", image_tokens=180),
        row(name="region by flow", image_tokens=200),
        row(name="zoom", image_tokens=390),
    )
    page = markdown(made.model_copy(update={"rows": (REFERENCE, *crops)}))
    assert "40 % fewer image tokens, the goal is reached |" in page
    assert "33 % fewer image tokens, the goal is missed |" in page
    assert "30 % more image tokens, the goal is missed |" in page


def table() -> Table:
    finding = Finding(group=6, name="R(t)", measured="50 % right", compared_with="60 % right", verdict="does not pay")
    return Table(
        model="m", source="autoglm eval tiny x", measured="2026-01-31", machine="a machine",
        rows=(REFERENCE, row(lost=20, right=40, gflops=6.0)), findings=(finding,),
    )  # fmt: skip


def test_the_page_keeps_what_failed_and_names_groups_only_where_something_was_measured() -> None:
    page = markdown(table())
    assert (
        "| crop | 336 | 100 | 40.0 % (30.9 to 49.8) | 300 | 6.00 | 200 | - | baseline | worse by 20.0 points, 40 % less work |"
        in page
    )
    assert "| R(t) | 50 % right | 60 % right | does not pay |" in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {number}. {GROUPS[number]}" for number in (1, 5, 6)
    ]


def test_what_is_stored_gives_the_same_page() -> None:
    assert markdown(Table.model_validate_json(to_json(table()))) == markdown(table())
