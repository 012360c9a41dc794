"""docs/results holds what the code makes of the stored measurements: no figure there is written by hand."""

from pathlib import Path

import pytest

from autoglm_serving.training.ablation import table
from autoglm_serving.training.study.data import Study
from autoglm_serving.training.study.page import page
from autoglm_serving.training.study.picture import picture

RESULTS = Path(__file__).parents[2] / "docs/results"
MADE = {"resolution.md": "resolution.json", "resolution.svg": "resolution.json", "techniques.md": "techniques.json"}


def rendered(name: str) -> str:
    stored = (RESULTS / MADE[name]).read_text(encoding="utf-8")
    if name == "techniques.md":
        return table.markdown(table.Table.model_validate_json(stored))
    study = Study.model_validate_json(stored)
    return page(study) if name == "resolution.md" else picture(study)


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_page_is_what_the_code_makes_of_its_measurements(name: str) -> None:
    there = [(RESULTS / each).exists() for each in (name, MADE[name])]
    assert all(there) or not any(there), f"{name} and {MADE[name]} belong together"
    if all(there):
        assert (RESULTS / name).read_text(encoding="utf-8") == rendered(name)
