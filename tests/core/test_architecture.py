"""docs/architecture.md names the modules that there are, and no others."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "operator/autoglm_operator": "## Modules of the operator",
    "serving/autoglm_serving": "## Modules of serving",
}


def modules(package: Path) -> set[str]:
    """Modules by the names that the page uses: "kube", "controller/queue"."""
    return {str(path.relative_to(package).with_suffix("")) for path in package.rglob("*.py") if path.stem != "__init__"}


@pytest.mark.parametrize(("package", "heading"), PACKAGES.items())
def test_the_page_names_each_module_and_no_other(package: str, heading: str) -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition(heading)[2].partition("\n## ")[0]
    named = {name for name in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) if not name.endswith("/")}
    assert named == modules(ROOT / package)
