"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

RULES = {"l": "---", "r": "---:"}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], aligned: str = "") -> str:
    """One line for the columns, one for their rules, one for each row. `aligned`: "l" or "r" for each column, else all left."""
    rules = [RULES[each] for each in aligned or "l" * len(columns)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rules, *rows))
