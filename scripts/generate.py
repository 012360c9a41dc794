"""Write every file that is made from the models: CRDs, JSON schemas, reference pages. `--check` compares and writes nothing."""

import sys
from pathlib import Path

from autoglm_operator import crds, reference

ROOT = Path(__file__).resolve().parent.parent


def files() -> dict[str, str]:
    """Every generated file: path from the project's root -> text."""
    return crds.generate() | reference.generate(crds.definitions())


def main(*, check: bool) -> int:
    """Write the files, or name those that differ. Returns the exit status."""
    stale = [name for name, text in files().items() if not _same(ROOT / name, text)]
    for name in stale:
        if not check:
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(files()[name], encoding="utf-8")
        print(f"{'differs' if check else 'written'}: {name}")
    if check and stale:
        print("Run `make crds` and commit what it writes.", file=sys.stderr)
    return 1 if check and stale else 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
