"""Runs the benchmarks: `python -m benchmarks [NAME ...]` or `NAME --option ...` from the repository root."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

from autoglm_operator.local.ray_head import WORKER_NICENESS

FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "load", "machine"))


def main(arguments: list[str]) -> int:
    first_option = next((at for at, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    wanted, options = arguments[:first_option], arguments[first_option:]
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    if options and len(wanted) != 1:
        print("name one benchmark before its options", file=sys.stderr)
        return 2
    # Ray's replicas give way to all else on the machine, which would then be measured instead of them.
    os.environ.setdefault(WORKER_NICENESS, "0")
    if len(wanted) == 1:
        sys.argv = [f"{FOLDER / wanted[0]}.py", *options]
        # The benchmarks use the tests' control plane, gateway and Ray.
        sys.path.insert(0, str(FOLDER.parent / "tests"))
        runpy.run_path(str(FOLDER / f"{wanted[0]}.py"), run_name="__main__")
        return 0
    return max(
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode for name in wanted or names()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
