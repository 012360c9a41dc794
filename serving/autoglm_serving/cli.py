"""`autoglm`: one command whose parts come from whatever is installed (entry points of the group `autoglm.commands`)."""

from importlib.metadata import entry_points

import click
from typing_extensions import override

COMMANDS = "autoglm.commands"
# Which extra holds what a command imports. Commands of other packages are not listed and say what they miss themselves.
EXTRAS = {
    "up": "operator,gateway,serving",
    "down": "operator",
    "status": "operator",
    "plan": "operator",
    "explain": "operator",
    "gateway": "gateway",
    "model": "serving",
    "screens": "serving",
    "train": "serving",
    "eval": "serving",
}


class InstalledCommands(click.Group):
    """Loads a command when it is used, so that `autoglm --help` needs no library of any of them."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(entry_points(group=COMMANDS).names)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or one that says what to install for it."""
        found = [point for point in entry_points(group=COMMANDS) if point.name == cmd_name]
        if not found:
            return None
        try:
            command = found[0].load()
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        assert isinstance(command, click.Command), f"{found[0].value} is a click command"
        return command

    @override
    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a library that it misses when it runs is told as one that it misses when it is loaded."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _missing(ctx.invoked_subcommand or "", error) from error


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    """A command that takes anything and says what is missing, so that `autoglm --help` still lists it."""
    refusal = _missing(name, error)

    def refuse() -> None:
        raise refusal

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, context_settings=settings, callback=refuse, help=f"({refusal.message})")


def _missing(name: str, error: ModuleNotFoundError) -> click.ClickException:
    package = (error.name or "").partition(".")[0]
    if package in ("autoglm_operator", "autoglm_serving"):
        raise error
    return click.ClickException(f"{package} is not installed: pip install 'autoglm[{EXTRAS.get(name, name)}]'")


@click.group(cls=InstalledCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="autoglm", prog_name="autoglm")
def main() -> None:
    """Run AutoGLM vision-language models on this machine or over cloud and edge sites."""


if __name__ == "__main__":
    main()
