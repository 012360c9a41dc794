"""The `autoglm` command itself: what it lists, and what it says when a part is not installed."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from autoglm_serving.cli import COMMANDS, main

GATEWAY = ("gateway", "run", "--listen", "127.0.0.1:1", "--admin", "127.0.0.1:2")


def run(*args: str, without: str = "") -> subprocess.CompletedProcess[str]:
    """`autoglm` in a process in which one package cannot be imported."""
    program = (
        "import sys\n"
        f"if {without!r}: sys.modules[{without!r}] = None\n"
        "from autoglm_serving.cli import main\n"
        "main(prog_name='autoglm')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_lists_every_command_with_a_sentence() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    for name in ("up", "down", "status", "plan", "explain", "gateway", "model"):
        assert f"\n  {name} " in text, name
    assert COMMANDS == "autoglm.commands"


def test_the_version_is_the_distributions() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("autoglm, version 0.")


@pytest.mark.parametrize(
    ("command", "without", "extra"),
    [
        ((*GATEWAY, "--state-dir", "/nowhere", "--token-file", "/nowhere"), "grpc", "gateway"),
        (("up", "examples/quickstart.yaml", "--state-dir", "/nowhere"), "aiohttp", "operator,gateway,serving"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_has_it(
    command: tuple[str, ...], without: str, extra: str
) -> None:
    done = run(*command, without=without)
    assert done.returncode == 1
    assert f"pip install 'autoglm[{extra}]'" in done.stderr
    assert without in done.stderr
    assert "Traceback" not in done.stderr


def test_listing_the_commands_needs_no_library_of_theirs() -> None:
    assert "  up " in run("--help", without="aiohttp").stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("nonsense").returncode == 2
