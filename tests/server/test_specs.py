"""Specs of kinds, made once for tasks that say the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from task_server.errors import Invalid
from task_server.protocol.tasks import Task
from task_server.server.service.specs import Specs
from task_server.server.service.uploads import OwnUploads

DIGEST = "a" * 64


def task(text: str = "{}", **fields: Any) -> Task:
    said = msgspec.json.decode(text, type=Task)
    return msgspec.structs.replace(said, **{"function": "math:sqrt", **fields})


def test_tasks_that_differ_in_what_is_their_own_share_a_spec() -> None:
    specs = Specs(default_python="3.11")

    one = specs.of(task('{"args":[1]}'), owner=1, is_plain=True)
    other = specs.of(task('{"args":[2]}', after=["x"]), owner=1, is_plain=True)

    assert one is other


@pytest.mark.parametrize(
    "fields",
    [
        {"function": "math:cbrt"},
        {"version": "1"},
        {"python": "3.12"},
        {"timeout": 5.0},
        {"priority": 3},
        {"at_most_once": True},
        {"require_sandbox": 2},
        {"isolation": "fresh"},
        {"result_encoding": "pickle"},
        {"keep": "until_read"},
        {"tags": ["a"]},
        {"package": "humanize"},
        {"environment": DIGEST},
    ],
)
def test_each_thing_that_is_of_the_kind_tells_specs_apart(fields: dict[str, Any]) -> None:
    specs = Specs(default_python="3.11")
    first = {"package": "numpy"} if "version" in fields else {}

    one = specs.of(task(**first), owner=1, is_plain=True)
    other = specs.of(task(**first, **fields), owner=1, is_plain=True)

    assert one != other
    assert specs.of(task(**first), owner=1, is_plain=True) == one


def test_owners_have_their_own_specs() -> None:
    specs = Specs(default_python="3.11")

    found = [specs.of(task(), owner=owner, is_plain=True).owner for owner in (1, 2, 1)]

    assert found == [1, 2, 1]


def test_lists_are_taken_too() -> None:
    specs = Specs(default_python="3.11")

    spec = specs.of(task(package=["numpy", "humanize"]), owner=1, is_plain=True)

    assert spec.package == ("numpy", "humanize")


def test_a_refreshed_lock_and_a_new_upload_count_at_once() -> None:
    specs = Specs(default_python="3.11")
    asked = task(package="humanize")
    old, new = (OwnUploads(1, frozenset({"humanize"}), generation) for generation in "ab")

    before = specs.of(asked, owner=1, is_plain=True, uploads=old, refreshed={})
    uploaded = specs.of(asked, owner=1, is_plain=True, uploads=new, refreshed={})
    refreshed = specs.of(
        asked, owner=1, is_plain=True, uploads=new, refreshed={uploaded.request: DIGEST}
    )

    assert len({before.request, uploaded.request, refreshed.request}) == 3
    assert refreshed.environment == DIGEST


def test_what_is_refused_is_refused_again() -> None:
    specs = Specs(default_python="3.11")

    for _ in range(2):
        with pytest.raises(Invalid):
            specs.of(task(priority=11), owner=1, is_plain=True)
