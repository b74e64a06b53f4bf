"""`serve` and `worker` from plain options, without Typer.

They run for long, often side by side, and are started anew after a crash: Typer would cost each of
them 12 MB and most of a second. Whatever it has something to say about, help or a mistake, is left
to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

from task_server.options import Setting, checked, settings_of
from task_server.settings import ServerSettings, WorkerSettings

PARENT = "TASK_SERVER_PARENT"
"""Process id of the `up` that a server or worker ends with."""
OTHER_VARIABLES: Mapping[str, Sequence[str]] = {"server": ["TASK_SERVER_URL"]}
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_COMMANDS: Mapping[str, tuple[Any, str, str]] = {
    "serve": (ServerSettings, "task_server.server.run", "serve"),
    "worker": (WorkerSettings, "task_server.worker.run", "run"),
}
"""Settings, module and function of each."""

S = TypeVar("S", ServerSettings, WorkerSettings)


def run_plain(arguments: Sequence[str]) -> int | None:
    """Run one of the two; its exit status. None: nothing was done, the command is for Typer."""
    if not arguments or arguments[0] not in _COMMANDS:
        return None
    kind, module, function = _COMMANDS[arguments[0]]
    settings = plain_settings(kind, arguments[1:])
    if settings is None:
        return None
    try:
        run = getattr(import_module(module), function)
    except ModuleNotFoundError:
        return None
    end_with_parent()
    status: int = run(settings)
    return status


def plain_settings(kind: type[S], arguments: Sequence[str]) -> S | None:
    """Settings from `--name value` and the environment; None for all that is not just that."""
    texts = _texts(list(settings_of(kind).values()), arguments)
    if texts is None:
        return None
    try:
        return checked(kind, texts, are_texts=True)
    except ValueError:
        return None


def _texts(known: Sequence[Setting], arguments: Sequence[str]) -> dict[str, str] | None:
    names = {setting.option: setting.name for setting in known}
    options, values = arguments[::2], arguments[1::2]
    are_plain = len(options) == len(values) == len(set(options)) and names.keys() >= set(options)
    if not are_plain or any(value.startswith("-") for value in values):
        return None
    texts: dict[str, str] = {}
    for setting in known:
        variables = (setting.variable, *OTHER_VARIABLES.get(setting.name, ()))
        said = [os.environ[name] for name in variables if os.environ.get(name)]
        if said:
            texts[setting.name] = said[0]
    texts.update(zip((names[option] for option in options), values, strict=True))
    return texts


def end_with_parent() -> None:
    """Started by `up`, be told to stop when it dies, however it dies (Linux)."""
    if os.environ.pop(PARENT, None) == str(os.getppid()) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, int(signal.SIGTERM))
