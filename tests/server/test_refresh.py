"""Locks: the same words get the same lock, until that is refreshed on purpose."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.environments.small_index import SmallIndex, small_index
from tests.server.asgi import App, application


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.add("greet", "1.0", {"greet.py": ""})
        index.add("other", "1.0", {"other.py": ""})
        yield index


@pytest.fixture
async def app(
    index: SmallIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    for name, value in index.environ(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    async with application(tmp_path / "data") as app:
        yield app


async def view(app: App, task: str) -> Any:
    """A task, once its versions are chosen."""
    async with asyncio.timeout(20):
        while True:
            view = (await app.ask("GET", f"/v1/tasks/{task}")).json
            if view.get("environment"):
                return view
            assert view["state"] == "queued", view
            await asyncio.sleep(0.02)


async def submit(app: App, **fields: object) -> str:
    reply = await app.ask("POST", "/v1/tasks", {"function": "greet:name", **fields})
    assert reply.status == 202, reply.body
    return str(reply.json["id"])


async def versions(app: App, digest: str) -> object:
    return (await app.ask("GET", f"/v1/environments/{digest}")).json["versions"]


async def test_a_lock_is_kept_until_it_is_refreshed_and_older_tasks_keep_it(
    app: App, index: SmallIndex
) -> None:
    old = await submit(app, package="greet>=1")
    first = (await view(app, old))["environment"]
    index.add("greet", "2.0", {"greet.py": ""})
    assert (await view(app, await submit(app, package=" Greet >=1")))["environment"] == first

    refreshed = (await app.ask("POST", "/v1/environments/refresh", {"package": "greet>=1"})).json

    assert refreshed["previous"] == first and refreshed["is_changed"]
    assert refreshed["versions"] == {"greet": "2.0"}
    new = await submit(app, package="greet>=1")
    assert (await view(app, new))["environment"] == refreshed["digest"]
    assert (await view(app, old))["environment"] == first
    replayed = await submit(app, environment=first)
    assert (await view(app, replayed))["environment"] == first
    again = (await app.ask("POST", "/v1/environments/refresh", {"package": "greet>=1"})).json
    assert not again["is_changed"] and again["previous"] == refreshed["digest"]


async def test_what_is_prepared_is_what_tasks_get_after_a_refresh(
    app: App, index: SmallIndex
) -> None:
    query, body = "/v1/environments?until=locked&wait=20", {"package": "greet"}
    first = (await app.ask("POST", query, body)).json["environment"]
    index.add("greet", "2.0", {"greet.py": ""})

    refreshed = (await app.ask("POST", "/v1/environments/refresh", body)).json

    assert refreshed["previous"] == first and refreshed["is_changed"]
    assert (await app.ask("POST", query, body)).json["environment"] == refreshed["digest"]
    shown = (await app.ask("GET", "/v1/environments")).json["environments"]
    asked = {each["environment"]: each["requirements"] for each in shown}
    assert asked[first] == asked[refreshed["digest"]] == [["greet"]]
    wanted = {each["environment"] for each in shown if each["wanted_until"]}
    assert wanted == {refreshed["digest"]}


async def test_a_refresh_that_fails_leaves_the_lock_as_it_is(app: App, index: SmallIndex) -> None:
    first = (await view(app, await submit(app, package="greet")))["environment"]
    index.files = {}

    refused = await app.ask("POST", "/v1/environments/refresh", {"package": "greet"})

    assert (refused.status, refused.code) == (422, "cannot_lock")
    assert "'greet' was not found in the package index" in refused.text.splitlines()[0]
    assert (await view(app, await submit(app, package="greet")))["environment"] == first


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"package": ""},
        {"package": "greet", "function": "x"},
        {"package": "../x"},
        {"packages": "greet"},
        {"package": "greet", "priority": 1},
        {"script": "x"},
    ],
)
async def test_a_refresh_of_nothing_or_of_something_else_is_refused(
    app: App, body: dict[str, object]
) -> None:
    assert (await app.ask("POST", "/v1/environments/refresh", body)).status == 422
    assert (await app.ask("POST", "/v1/environments/refresh", "[1]")).status in (400, 422)


NEWER = f"3.{sys.version_info.minor + 2}"
SCRIPT = '# /// script\n# requires-python = "{python}"\n# dependencies = ["other"]\n# ///\n'


async def test_packages_requirements_and_a_script_go_together(app: App) -> None:
    fields = {
        "package": "greet",
        "version": "1.0",
        "requirements": "other>=0.5  # why\n",
        "script": SCRIPT.format(python=">=3.9"),
    }

    found = await view(app, await submit(app, **fields))

    assert found["package"] == ["greet", "other>=0.5", "other"]
    assert await versions(app, found["environment"]) == {"greet": "1.0", "other": "1.0"}
    same = await view(app, await submit(app, requirements="other\nother>=0.5\ngreet==1.0"))
    assert same["environment"] == found["environment"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"script": SCRIPT.format(python="==3.13.*")}, "3.13"),
        ({"script": SCRIPT.format(python="<3.10")}, "3.9"),
        ({"script": SCRIPT.format(python=f">={NEWER}")}, NEWER),
        ({"script": SCRIPT.format(python=">=3.9"), "python": "3.12"}, "3.12"),
    ],
)
async def test_a_script_says_which_python(app: App, fields: dict[str, str], expected: str) -> None:
    environment = (await view(app, await submit(app, **fields)))["environment"]

    assert (await app.ask("GET", f"/v1/environments/{environment}")).json["python"] == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"requirements": "numpy\n-r x\n"}, "requirements"),
        ({"requirements": 1}, "requirements"),
        ({"script": "no header"}, "script"),
        ({"script": SCRIPT.replace("other", "--index-url=x")}, "script"),
        ({"script": SCRIPT.format(python=">=4")}, "script"),
        ({"script": SCRIPT.format(python=">=3.12"), "python": "3.11"}, "python"),
        ({"package": ["a", "b"], "version": "1", "requirements": "x"}, "version"),
        ({"version": "1", "requirements": "x"}, "version"),
    ],
)
async def test_what_is_wrong_in_them_is_refused_with_the_field(
    app: App, fields: dict[str, object], field: str
) -> None:
    body = {"function": "greet:name", **fields}

    assert (await app.refused(422, "POST", "/v1/tasks", body)).fields == [field]
