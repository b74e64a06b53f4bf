"""The command lines of uv and the process environment it gets.

Requirements reach uv in files only, never as arguments, so no text of a user can be an option.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from task_server.environments.lock import wanted_platforms

REQUIREMENTS_FILE = "requirements.in"
PROJECT_FILE = "pyproject.toml"

_PASSED_ON = frozenset({"PATH", "HOME", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"})
_PASSED_ON_PREFIXES = ("SSL_CERT_", "UV_")
# These would lead uv to the configuration files of whoever started us, or away from ours.
_NEVER = frozenset({"UV_NO_CONFIG", "UV_CONFIG_FILE", "UV_PROJECT", "UV_WORKING_DIR"})
_ALWAYS = ("--no-python-downloads", "--no-progress", "--color", "never")
_WHEELS_OF_ONE_INDEX = ("--only-binary", ":all:", "--index-strategy", "first-index")


MINIMUM = (0, 9, 17)
"""Older ones do not know `--exclude-newer-package`, and ignore what they do not know."""

_VERSION = re.compile(r"uv (\d+)\.(\d+)\.(\d+)")
_PLACES = frozenset(
    {"UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS"}
)


def version_command(uv: str) -> list[str]:
    """Ask uv for its version; `too_old` reads the answer."""
    return [uv, "--version"]


def too_old(output: str) -> str:
    """What is wrong with the uv that answered so; empty: nothing."""
    needed = ".".join(map(str, MINIMUM))
    found = _VERSION.match(output)
    if found is None:
        return f"uv does not tell its version; uv {needed} or newer is needed"
    if tuple(map(int, found.groups())) < MINIMUM:
        return f"{found[0]} is too old; uv {needed} or newer is needed"
    return ""


def indexes_command(uv: str, requirements: str) -> list[str]:
    """Have uv tell which indexes it uses; `requirements` is an empty file. `indexes_in` reads it.

    Those of its variables are among them, and the one that is its own.
    """
    command = [uv, "pip", "compile", "--no-config", "--offline", *_ALWAYS, "--no-header"]
    return [*command, "--emit-index-url", "--emit-find-links", "--", requirements]


def indexes_in(output: str) -> list[str]:
    """The URLs that the answer to `indexes_command` names."""
    lines = (line.split() for line in output.splitlines() if line.startswith("--"))
    return [url for words in lines for url in words[1:]]


def without_places(environ: Mapping[str, str]) -> dict[str, str]:
    """The same without the indexes that variables name: for a command that says where to look."""
    return {name: value for name, value in environ.items() if name not in _PLACES}


def process_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of `environ` uv may see: where to find the index and its cache, and nothing else."""
    return {
        name: value
        for name, value in environ.items()
        if (name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)) and name not in _NEVER
    }


def compile_environment(environ: Mapping[str, str], folder: PurePath) -> dict[str, str]:
    """`process_environment` for `compile_command`, which reads configuration from `folder` only."""
    configuration = {"XDG_CONFIG_HOME": str(folder), "XDG_CONFIG_DIRS": str(folder)}
    return {**process_environment(environ), **configuration, "UV_NO_SYSTEM_CONFIG": "1"}


def project_file(python: str) -> str:
    """Content of the PROJECT_FILE that keeps a resolution to one Python minor.

    Without it uv also resolves for every later Python: measured, `numpy==1.26.4` with `pandas`
    gave pandas 2.3 instead of 3.0, and with `pandas==3.0.0` no solution at all.
    """
    return f'[tool.uv]\nenvironments = ["{wanted_platforms(python)}"]\n'


def compile_command(
    uv: str,
    *,
    folder: PurePath,
    python: str,
    interpreter: PurePath | None = None,
    index: str | None = None,
    before: Sequence[str] = (),
    exclude_newer: str | None = None,
    exempt: Iterable[str] = (),
) -> list[str]:
    """Resolve the REQUIREMENTS_FILE of `folder` into a lock on stdout; wheels only.

    `folder` must hold `project_file(python)` too. `interpreter` is any Python that uv may ask
    about this machine. Names that an index of `before` has come from that index alone; behind each
    pin stands where it is from. `exclude_newer` is an absolute time (RFC 3339): what came later is
    not seen, but for the names in `exempt`.
    """
    command = [uv, "pip", "compile", "--project", str(folder), "--no-sources", *_ALWAYS]
    command += ["--universal", "--python-version", python, *_WHEELS_OF_ONE_INDEX]
    command += ["--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--emit-index-annotation"]
    for each in before:
        command += ["--index", each]
    command += _optional("--python", str(interpreter) if interpreter else None)
    command += _optional("--exclude-newer", exclude_newer)
    for name in exempt if exclude_newer else ():
        command += ["--exclude-newer-package", f"{name}=false"]
    command += _optional("--default-index", index)
    return [*command, "--", str(folder / REQUIREMENTS_FILE)]


def venv_command(uv: str, *, target: PurePath, interpreter: PurePath) -> list[str]:
    """Make an empty environment at `target` that may be renamed afterwards."""
    command = [uv, "venv", "--no-config", "--no-project", "--relocatable", *_ALWAYS]
    return [*command, "--python", str(interpreter), "--", str(target)]


def forget_command(uv: str, names: Iterable[str]) -> list[str]:
    """Remove from uv's cache what it has of these packages."""
    return [uv, "cache", "clean", "--no-config", *_ALWAYS, "--", *names]


def install_command(
    uv: str,
    *,
    interpreter: PurePath,
    lock_file: PurePath,
    link_mode: str = "hardlink",
    index: str | None = None,
    wheels: PurePath | None = None,
    offline: bool = False,
) -> list[str]:
    """Install what `lock_file` pins, and nothing else, into the environment of `interpreter`.

    With `wheels` from that folder alone: no index is asked. `offline`: only what uv's cache has of
    that place.
    """
    command = [uv, "pip", "install", "--no-config", *_ALWAYS, "--link-mode", link_mode]
    command += ["--offline"] if offline else []
    command += ["--require-hashes", "--no-deps", *_WHEELS_OF_ONE_INDEX]
    command += _optional("--default-index", index if wheels is None else None)
    if wheels is not None:
        command += ["--no-index", "--find-links", str(wheels)]
    return [*command, "--python", str(interpreter), "--requirements", str(lock_file)]


def _optional(option: str, value: str | None) -> list[str]:
    return [option, value] if value else []
