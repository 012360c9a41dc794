"""Runs the benchmarks: `python -m benchmarks [NAME ...]` from the repository root."""

import runpy
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "machine"))


def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    if len(wanted) == 1:
        # The benchmarks use the tests' control plane, gateway and Ray.
        sys.path.insert(0, str(FOLDER.parent / "tests"))
        runpy.run_path(str(FOLDER / f"{wanted[0]}.py"), run_name="__main__")
        return 0
    return max(
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode for name in wanted or names()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
