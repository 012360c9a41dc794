"""The project's own promises: the lock is current, every task is listed, versions agree."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def phony_targets() -> set[str]:
    return set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_lock_is_current() -> None:
    kept = ROOT / ".uv/bin/uv"
    uv = shutil.which("uv") or (str(kept) if kept.exists() else None)
    if uv is None:
        pytest.skip("no uv on this machine")
    done = subprocess.run([uv, "lock", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_alone_lists_every_task_with_a_sentence() -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", make().stdout)
    listed = {line.split()[0] for line in shown.splitlines() if len(line.split()) > 1}
    assert phony_targets() == listed


def test_the_versions_that_must_agree_do() -> None:
    binaries = (ROOT / "tests/cluster/kubernetes-binary.sh").read_text()
    version = re.search(r"^version=1\.(\S+)$", binaries, re.MULTILINE)
    assert version is not None
    modules = (ROOT / "tests/cluster/tools/go.mod").read_text()
    assert f"\tk8s.io/kubernetes v1.{version[1]} // indirect\n" in modules
    staged = re.findall(r"^\t(k8s\.io/\S+) => (k8s\.io/\S+) (v\S+)$", modules, re.MULTILINE)
    assert len(staged) == 33
    assert {(old == new, number) for old, new, number in staged} == {(True, f"v0.{version[1]}")}
    helm = re.search(r"^    version=3\.(\S+)$", binaries, re.MULTILINE)
    assert helm is not None
    assert f"\thelm.sh/helm/v3 v3.{helm[1]} // indirect\n" in (ROOT / "tests/cluster/helm/go.mod").read_text()


def test_the_wheel_holds_both_packages_and_every_command_is_an_entry_point() -> None:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["operator/autoglm_operator", "serving/autoglm_serving"]
    for package in packages:
        assert (ROOT / package / "py.typed").is_file()


def test_the_licence_is_the_full_text_that_pyproject_names() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize(
    "script", [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci/run"], ids=lambda path: path.name
)
def test_shell_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_layer_table_names_each_layer_with_its_time_and_outcome() -> None:
    layers = load_script("run_layers")
    table = layers.table(
        [
            layers.Result("lint", 75.25, "passed"),
            layers.Result("test-core", 3.0, "failed (2)"),
            layers.Result("x", 1, "passed"),
        ]
    )
    assert [re.split(r" {2,}", line) for line in table.splitlines()] == [
        ["layer", "time", "outcome"],
        ["lint", "1 min 15.2 s", "passed"],
        ["test-core", "0 min 03.0 s", "failed (2)"],
        ["x", "0 min 01.0 s", "passed"],
        ["total", "1 min 19.2 s"],
    ]


def test_a_failed_layer_fails_the_run_but_later_layers_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = load_script("run_layers")
    (tmp_path / "Makefile").write_text("bad:\n\texit 3\ngood:\n\ttouch done\n")
    monkeypatch.chdir(tmp_path)
    assert layers.main(["bad", "good"]) == 1
    assert (tmp_path / "done").exists()
    assert layers.main(["good"]) == 0


def test_what_cannot_run_on_a_machine_is_told_in_the_table_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = load_script("run_layers")
    told = "a real node: a node takes root"
    (tmp_path / "Makefile").write_text(
        f"node:\n\techo '{told}' >> $$AUTOGLM_NOT_RUN\n\techo '{told}' >> $$AUTOGLM_NOT_RUN\nall:\n\ttrue\n"
    )
    monkeypatch.chdir(tmp_path)
    results = [layers.run_layer(name) for name in ("node", "all")]
    assert all(result.passed for result in results)
    lines = layers.table(results).splitlines()
    assert lines[1].endswith("passed, BUT NOT ALL OF IT RAN (see below)")
    assert lines[2].endswith("passed")
    assert lines[-1] == f"NOT RUN HERE, in node: {told}"
    assert layers.main(["node", "all"]) == 0


def test_a_layer_that_hangs_is_ended_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = load_script("run_layers")
    monkeypatch.setattr(layers, "LAYER_LIMIT_S", 1)
    (tmp_path / "Makefile").write_text("hang:\n\texec sleep 600\n")
    monkeypatch.chdir(tmp_path)
    result = layers.run_layer("hang")
    assert result.outcome.startswith("stopped after")
    assert not result.passed


def test_a_stopped_run_ends_its_layer_and_still_prints_the_table(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("hang:\n\t@touch started; exec sleep 600\n")
    command = [sys.executable, str(ROOT / "scripts/run_layers.py"), "hang", "never"]
    in_background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a shell starts what ends with &
    run = subprocess.Popen([*in_background, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        wait_until((tmp_path / "started").exists, "the layer has started")
        run.terminate()
        output, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 1
    assert "interrupted" in output.splitlines()[-2]
    assert output.splitlines()[-1].startswith("total")
