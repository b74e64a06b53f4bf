"""The documentation knows all there is. `python tests/test_docs.py` writes the settings' page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from task_server import errors
from task_server.cli.application import app
from task_server.options import Setting, settings_of
from task_server.protocol.tasks import ErrorKind
from task_server.server.app import ROUTES
from task_server.settings import GIB, KIB, MIB, ServerSettings, WorkerSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
SETTINGS_PAGE = ROOT / "docs" / "reference" / "settings.md"
RELIABILITY_PAGE = ROOT / "docs" / "explanation" / "reliability.md"
INTRODUCTION = """\
# Settings

All of these are built. This page is written from `src/task_server/settings.py` by
`python tests/test_docs.py`.

Every setting is an option of the command and a variable of the environment; the option wins.
`up` takes those of `serve`, and `--slots` for its worker. Sizes are given in bytes.

Where no default is shown it is worked out. Data lies in `/var/lib/task-server` for root, for
others in `$XDG_STATE_HOME/task-server` (`~/.local/state/task-server`); that of a worker in
`worker` below it. The worker of `up` has its data in `worker` below the data directory of `up`.

For `--database postgresql://USER:PASSWORD@HOST:PORT/NAME` install the extra `postgres`. It takes
PostgreSQL 14 or newer and a database that exists, with UTF8, where that user may make tables; the
first server that starts makes them. The variables and the password file of PostgreSQL's own
programs (`PGUSER`, `PGPASSWORD`, `PGPASSFILE` ...) say what the URL does not. Several servers may
share a database: each holds up to seven connections, all need the same `--blobs`, a directory that
they share or a bucket, and a load balancer in front may send a request to any of them. A pooler
that gives each transaction another connection cannot stand between.

Payloads above 64 KiB lie where `--blobs` says. For `s3://BUCKET/PREFIX` install the extra `s3`;
the bucket has to exist. Where it is and who asks is said by the usual variables: `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, else by the machine's role, and
`AWS_ENDPOINT_URL` for a store that is not Amazon's. The server has to be allowed to get, put, list
and delete objects below the prefix. What a killed server leaves of an upload is seen by nobody
and goes by a rule of the bucket that aborts incomplete multipart uploads after a day.

Programs that call find their server by `TASK_SERVER_URL` and `TASK_SERVER_TOKEN`, else by the
profile that `up` writes: `$XDG_CONFIG_HOME/task-server/profile.json`, or the file named by
`TASK_SERVER_PROFILE`.
"""
KINDS: tuple[tuple[str, type[ServerSettings] | type[WorkerSettings]], ...] = (
    ("`serve` and `up`", ServerSettings),
    ("`worker`", WorkerSettings),
)


def settings_page() -> str:
    """What `docs/reference/settings.md` has to be."""
    parts = [INTRODUCTION]
    for title, kind in KINDS:
        rows = [_row(setting) for setting in settings_of(kind).values()]
        head = "| option | variable | default | meaning |\n|---|---|---|---|"
        parts.append("\n".join([f"## {title}", "", head, *rows, ""]))
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    default = "required" if setting.is_required else _shown(setting.default, setting.unit)
    return f"| `{setting.option}` | `{setting.variable}` | {default} | {setting.help} |"


def _shown(default: object, unit: str) -> str:
    if default is None:
        return ""
    if unit == "bytes" and isinstance(default, int):
        factor, name = next(
            each
            for each in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "bytes"))
            if default % each[0] == 0
        )
        return f"{default // factor} {name}"
    text = f"{default:.10g}" if isinstance(default, float) else str(default)
    return f"`{text}` {unit}".strip()


def commands() -> Iterator[str]:
    """All commands, as `token create`."""
    yield from _below(typer.main.get_command(app), "")


def _below(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path.strip()
        return
    for name, child in children.items():
        yield from _below(child, f"{path} {name}")


@pytest.fixture(scope="module")
def text() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def test_the_settings_page_is_what_the_settings_say() -> None:
    assert SETTINGS_PAGE.read_text() == settings_page(), "run: python tests/test_docs.py"


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_is_documented(command: str, text: str) -> None:
    assert re.search(rf"`task-server {command}\b", text)


@pytest.mark.parametrize("code", sorted(errors.BY_CODE))
def test_every_error_code_is_documented_with_its_status(code: str) -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()

    assert f"| `{code}` | {errors.BY_CODE[code].status} |" in page


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_every_kind_of_a_tasks_error_is_documented(kind: str) -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()

    assert f"| `{kind}` |" in page


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_endpoint_is_documented(route: Any, text: str) -> None:
    path = re.sub(r":\w+}", "}", route.path)  # {function:path}
    spelt: set[str] = {path, path.replace("{id}", "<id>")}

    assert any(f"`{route.method} {each}`" in text for each in spelt)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())

    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]

    assert broken == []


def test_every_test_that_a_fault_is_said_to_have_is_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", RELIABILITY_PAGE.read_text())
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}

    missing = [
        f"{file}::{name}"
        for file, name in named
        if not any(
            path.as_posix().endswith(f"/{file}") and f"def {name}(" in text
            for path, text in tests.items()
        )
    ]

    assert named and missing == []


if __name__ == "__main__":
    SETTINGS_PAGE.write_text(settings_page())
