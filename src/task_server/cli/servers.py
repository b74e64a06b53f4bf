"""Commands that run things: up, serve, worker. Their options are made from the settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Annotated, Any, TypeVar

import typer

from task_server.cli.long_running import OTHER_VARIABLES, end_with_parent
from task_server.options import Setting, checked, settings_of
from task_server.settings import ServerSettings, WorkerSettings

_SERVER = settings_of(ServerSettings)
_WORKER = settings_of(WorkerSettings)
_WHERE = re.compile(r" - at `\$\.(\w+)`")

Command = Callable[..., None]
S = TypeVar("S", ServerSettings, WorkerSettings)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(with_options(up, [*_SERVER.values(), _WORKER["slots"]]))
    app.command()(with_options(serve, _SERVER.values()))
    app.command()(with_options(worker, _WORKER.values()))


def up(slots: int | None = None, **values: Any) -> None:
    """Run a server and one worker on this machine.

    It writes a profile, so that client and command line on this machine need no settings.
    """
    settings = settings_from(ServerSettings, values)
    from task_server.cli.up import up as run

    raise typer.Exit(run(settings, slots))


def serve(**values: Any) -> None:
    """Run a server."""
    settings = settings_from(ServerSettings, values)
    end_with_parent()
    raise typer.Exit(part("task_server.server.run").serve(settings))


def worker(**values: Any) -> None:
    """Run a worker. SIGTERM lets it finish what it runs; a second one gives everything back."""
    settings = settings_from(WorkerSettings, values)
    end_with_parent()
    raise typer.Exit(part("task_server.worker.run").run(settings))


def settings_from(kind: type[S], values: dict[str, Any]) -> S:
    """Settings of a kind from options; a wrong one ends the command with its name."""
    try:
        return checked(kind, values)
    except ValueError as error:
        message = _WHERE.sub(lambda found: f" for --{found[1].replace('_', '-')}", str(error))
        raise typer.BadParameter(message) from error


def part(module: str) -> Any:
    """A module of an extra; the command ends and says which to install where it is not."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed; run: pip install 'task-server[all]'"
        raise typer.BadParameter(message) from error


def with_options(command: Command, settings: Iterable[Setting]) -> Command:
    """The command with an option for each setting."""
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(setting) for setting in settings]
    )
    return command


def _parameter(setting: Setting) -> inspect.Parameter:
    unit = f" ({setting.unit})" if setting.unit else ""
    option = typer.Option(
        setting.option,
        envvar=[setting.variable, *OTHER_VARIABLES.get(setting.name, ())],
        help=f"{setting.help}{unit}.",
    )
    kind: Any = setting.kind
    if setting.default is None and not setting.is_required:
        kind = kind | None
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if setting.is_required else setting.default,
        annotation=Annotated[kind, option],
    )
