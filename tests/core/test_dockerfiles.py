"""The images: from the lock file, without root, without tools that only a build needs, with the libraries of their extra."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FILES = {name: ROOT / f"docker/{name}.Dockerfile" for name in ("operator", "gateway", "serving")}
IMAGES = pytest.mark.parametrize("name", FILES)


def stages(name: str) -> list[str]:
    """The text of each stage."""
    return re.split(r"^FROM .*$", FILES[name].read_text().replace("\\\n", " "), flags=re.MULTILINE)[1:]


@IMAGES
def test_the_result_runs_without_root_and_has_no_tools_of_a_build(name: str) -> None:
    build, result = stages(name)
    assert re.findall(r"^USER (\S+)$", result, re.MULTILINE) == ["65532:65532"]
    for tool in ("uv", "pip", "gcc", "build-essential", "git", "python3-dev", "python3-venv"):
        assert not re.search(rf"(?<![\w/.-]){re.escape(tool)}(?![\w/.-])", result), tool
    assert re.findall(r"^COPY (.*)$", result, re.MULTILINE) == ["--from=build /opt/autoglm /opt/autoglm"]
    assert "uv sync" in build


@IMAGES
def test_libraries_are_those_of_the_lock_file_and_a_layer_of_their_own(name: str) -> None:
    build = stages(name)[0]
    syncs = re.findall(r"^RUN /uv/bin/uv sync (.*)$", build, re.MULTILINE)
    assert len(syncs) == 2
    assert all("--frozen" in sync and "--no-dev" in sync for sync in syncs)
    assert "--no-install-project" in syncs[0]
    assert "--no-editable" in syncs[1], "the sources stay behind"
    assert build.index("--no-install-project") < build.index("COPY operator operator")
    assert f"EXTRAS={name}" in build if name == "serving" else all(f"--extra {name}" in sync for sync in syncs)


@IMAGES
def test_what_is_copied_is_what_the_context_holds(name: str) -> None:
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        part
        for line in re.findall(r"^COPY (?!--from)(.*)$", stages(name)[0], re.MULTILINE)
        for part in line.split()[:-1]
    }
    assert copied == kept
    assert all((ROOT / part).exists() for part in copied)


@pytest.mark.parametrize("name", ["operator", "gateway"])
def test_image_ports_and_user_are_those_of_the_chart(name: str) -> None:
    text = (ROOT / f"charts/autoglm/templates/{name}/deployment.yaml").read_text()
    ports = set(re.findall(r"containerPort: (\d+)", text))
    (exposed,) = re.findall(r"^EXPOSE (.*)$", FILES[name].read_text(), re.MULTILINE)
    assert set(exposed.split()) == ports
    assert "runAsUser: 65532" in (ROOT / "charts/autoglm/templates/_helpers.tpl").read_text()
    values = yaml.safe_load((ROOT / "charts/autoglm/values.yaml").read_text())
    assert f"-t {values[name]['image']['repository']}:" in FILES[name].read_text()


def needed(extra: str) -> set[str]:
    """Distributions that the project with one extra installs here."""
    found: set[str] = set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"][extra]]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = _plain(requirement.name)
        if name not in found:
            found.add(name)
            waiting += _requirements(name, requirement.extras)
    return found


def _requirements(name: str, extras: set[str]) -> Iterator[str]:
    try:
        stated = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for text in stated:
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield text.partition(";")[0]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("operator", ("autoglm_operator.__main__", "autoglm_operator.plugin.commands", "autoglm_operator.handlers")),
        ("gateway", ("autoglm_serving.cli", "autoglm_serving.gateway.commands", "autoglm_serving.gateway.supervisor")),
    ],
)
def test_a_process_needs_no_library_beyond_its_extra(extra: str, modules: tuple[str, ...]) -> None:
    have = needed(extra)
    foreign = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {_plain(owner) for owner in owners} & {*have, "autoglm"} and module.isidentifier()
    )
    assert "torch" in foreign
    program = f"""
import sys
from importlib.machinery import PathFinder
FOREIGN = frozenset({foreign!r})
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in FOREIGN else find(name, path, target)
)
import importlib
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
