"""From a model URI to a folder, and the `autoglm model` commands."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from autoglm_serving.model.commands import model
from autoglm_serving.model.errors import ModelNotFound
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.locate import default_cache, locate
from support.processes import Process


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (
            "autoglm-tiny",
            ("is not one of: builtin://autoglm-tiny, builtin://autoglm-tiny-grounded, file:///absolute/path, hf://"),
        ),
        ("s3://bucket/model", "is not one of"),
        ("builtin:/autoglm-tiny", "is not one of"),
        ("builtin://autoglm-huge", "no built-in model 'autoglm-huge'"),
        ("file://relative/path", "absolute path"),
        ("file:///no/such/folder", "is not a folder"),
        ("hf://no-organisation", "not of the form"),
        ("hf://../../etc", "not of the form"),
        ("", "is not one of"),
    ],
)
def test_a_uri_that_names_no_model_is_refused_with_the_reason(uri: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=reason):
        locate(uri, tmp_path)


def test_a_file_uri_may_hold_spaces_and_chinese(tmp_path: Path) -> None:
    folder = tmp_path / "模型 one"
    folder.mkdir()
    assert locate(folder.as_uri()) == folder


def test_two_processes_that_want_the_built_in_model_share_one_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "models" / ".unfinished-of-a-killed-process").mkdir(parents=True)
    program = "from autoglm_serving.model.locate import locate; print(locate('builtin://autoglm-tiny'))"
    processes = [
        Process(f"locate-{number}", [sys.executable, "-c", program], log=tmp_path / f"{number}.log", env=environment)
        for number, environment in enumerate([{"AUTOGLM_CACHE": str(tmp_path)}] * 2)
    ]
    with processes[0], processes[1]:
        assert [process.wait() for process in processes] == [0, 0], processes[0].log_tail()
    first, second = (process.log_text().splitlines()[-1] for process in processes)
    assert first == second
    check_folder(Path(first))
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == [Path(first).name]
    stamp = (Path(first) / "model.safetensors").stat().st_mtime_ns
    assert locate("builtin://autoglm-tiny", tmp_path) == Path(first)
    assert (Path(first) / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/user")
    monkeypatch.delenv("AUTOGLM_CACHE", raising=False)
    assert default_cache() == Path("/var/cache/user/autoglm")
    monkeypatch.setenv("AUTOGLM_CACHE", "/data")
    assert default_cache() == Path("/data")


def test_a_hugging_face_model_is_taken_from_its_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("hf://zai-org/AutoGLM-Phone-9B") == tmp_path
    assert locate("hf://zai-org/AutoGLM-Phone-9B@main") == tmp_path
    assert asked == [("zai-org/AutoGLM-Phone-9B", None), ("zai-org/AutoGLM-Phone-9B", "main")]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LocalEntryNotFoundError("offline"), "could not be reached .*LocalEntryNotFoundError.* not in the cache"),
        (ConnectionRefusedError("refused"), "could not be reached .*ConnectionRefusedError"),
        (RepositoryNotFoundError("404", response=Mock()), "has no model zai-org/AutoGLM, or it is private"),
    ],
)
def test_a_hub_that_does_not_answer_is_told_apart_from_a_model_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelNotFound, match=reason):
        locate("hf://zai-org/AutoGLM")


def test_init_tiny_writes_a_folder_that_check_accepts(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tiny"
    made = CliRunner().invoke(model, ["init-tiny", str(folder), "--seed", "3"])
    assert made.exit_code == 0, made.output
    assert folder.as_uri() in made.output
    checked = CliRunner().invoke(model, ["check", folder.as_uri()])
    assert checked.exit_code == 0, checked.output
    assert "is a whole model (32768 positions)" in checked.output


def test_init_tiny_leaves_a_folder_alone_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    refused = CliRunner().invoke(model, ["init-tiny", str(tmp_path)])
    assert refused.exit_code == 1
    assert "not empty" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    wrong = CliRunner().invoke(model, ["check", tmp_path.as_uri()])
    assert wrong.exit_code == 1
    assert "only 'glm4v'" in wrong.output
    missing = CliRunner().invoke(model, ["check", "s3://bucket/x"])
    assert missing.exit_code == 1
    assert "is not one of" in missing.output
