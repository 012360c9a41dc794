"""The core stays pure and light: what may import what holds, and no core module loads a heavy library."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
HEAVY = ("aiohttp", "grpc", "kopf", "kubernetes", "numpy", "PIL", "ray", "starlette", "torch", "transformers")
# The lowest layer line that holds shells; every line below it is core. The last two are packages with both in them.
LOWEST_SHELL = {
    "autoglm_operator": "kube",
    "autoglm_serving": "tracing",
    "autoglm_serving.screens": "chromium",
    "autoglm_serving.vision": "pixels",
}
PACKAGES = [package for package in LOWEST_SHELL if "." not in package]
# A package of shells whose recipes, tables and pages are pure all the same.
PURE_PARTS_OF_SHELLS = "autoglm_serving.training."
KNOWN_TO_OPERATOR = {"config", "headers", "measurements", "routing_table", "wire"}


def layers(package: str) -> list[list[str]]:
    """The layer lines of a package, top to bottom."""
    contract = next(each for each in CONTRACTS if each["type"] == "layers" and each["containers"] == [package])
    return [[name.strip(" ()") for name in line.split("|")] for line in contract["layers"]]


def below_shells(package: str) -> set[str]:
    """Full names of the modules below a package's lowest line of shells; not every planned module exists."""
    lines = layers(package)
    lowest = next(i for i, line in enumerate(lines) if LOWEST_SHELL[package] in line)
    return {f"{package}.{name}" for line in lines[lowest + 1 :] for name in line if exists(f"{package}.{name}")}


def exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def core_modules(package: str) -> set[str]:
    """Full names of a package's core modules; of a package with shells and core in it, only those of its core."""
    modules = below_shells(package)
    for mixed in LOWEST_SHELL.keys() & modules:
        modules = modules - {mixed} | below_shells(mixed)
    return modules


def forbidden(name: str) -> tuple[set[str], set[str]]:
    """Sources and forbidden modules of a contract."""
    contract = next(each for each in CONTRACTS if each["name"] == name)
    return set(contract["source_modules"]), set(contract["forbidden_modules"])


def every_core_module() -> list[str]:
    return sorted(module for package in PACKAGES for module in core_modules(package))


def test_every_import_contract_is_kept() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("package", "contract"),
    [
        ("autoglm_operator", "The operator's core has no clock, randomness, logging or I/O"),
        ("autoglm_serving", "The serving core has no clock, randomness, logging or I/O"),
    ],
)
def test_every_core_module_is_under_the_contract_of_purity(package: str, contract: str) -> None:
    held = forbidden(contract)[0]
    assert core_modules(package) - held == set()
    assert {name for name in held - core_modules(package) if not name.startswith(PURE_PARTS_OF_SHELLS)} == set()
    assert {name for name in held if not exists(name)} == set()


def test_every_serving_module_is_hidden_from_the_operator_but_what_they_write_to_each_other() -> None:
    everything = {name for line in layers("autoglm_serving") for name in line}
    assert forbidden("The operator knows of serving only what they write to each other")[1] == {
        f"autoglm_serving.{name}" for name in everything - KNOWN_TO_OPERATOR
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_core_module_loads_no_heavy_library(package: str) -> None:
    modules = [module for module in every_core_module() if module.startswith(package)]
    # Imported one after the other in one fresh interpreter: the first that loads something heavy is named.
    script = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    if loaded:
        sys.exit(f"{{module}} loads {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_heavy_import_in_a_core_module_would_be_seen() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import autoglm_operator, sys, aiohttp; sys.exit('aiohttp' in sys.modules)"], check=False
    )
    assert done.returncode == 1


@pytest.mark.parametrize("folder", ["operator", "serving", "tests/operator", "tests"])
def test_no_folder_hides_the_standard_librarys_operator_module(folder: str) -> None:
    # With operator/__init__.py, `import collections` fails in every Python started from the root.
    assert not (ROOT / folder / "__init__.py").exists()


def test_python_started_from_the_root_finds_the_standard_librarys_operator_module() -> None:
    script = "import collections, operator; operator.itemgetter; print(operator.__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(ROOT / "operator"))
