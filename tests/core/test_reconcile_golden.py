"""Whole plans for whole situations. `UPDATE_GOLDEN=1 pytest tests/core/test_reconcile_golden.py` writes the plans anew."""

import os

import pytest

from support import golden


@pytest.mark.parametrize("case", golden.cases())
def test_the_plan_is_the_golden_one(case: str) -> None:
    plan = golden.decide(case)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write(case, plan)
    assert plan == golden.expected(case)


def test_there_are_enough_cases_and_each_has_its_three_files() -> None:
    folders = [path for path in golden.FOLDER.iterdir() if path.is_dir()]
    assert len(golden.cases()) >= 20
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"deployment.yaml", "observed.yaml", "plan.yaml"}
