"""docs/complaints.md names tests and pages: all of them are there, and every complaint has some."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/complaints.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)#]+)")


def complaints() -> dict[str, str]:
    """The text of each complaint by its title."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def names_of(path: Path) -> set[str]:
    """Test functions of a module; none where there is no such module."""
    if not path.exists():
        return set()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_there_are_ten_and_each_names_tests_that_exist() -> None:
    found = complaints()
    assert [title.partition(".")[0] for title in found] == [str(number) for number in range(1, 11)]
    for title, text in found.items():
        named = TEST.findall(text)
        assert len(named) >= 3, title
        missing = [f"{path}::{name}" for path, name in named if name not in names_of(ROOT / path)]
        assert missing == [], title


def test_every_line_of_a_list_names_one_test() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]
    assert [line for line in lines if not TEST.fullmatch(line.removeprefix("- "))] == []


def test_every_page_that_is_linked_exists() -> None:
    links = [link for text in complaints().values() for link in LINK.findall(text)]
    assert len(links) > 15
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
