"""Which places belong to package indexes: asked of a real uv and of a real index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.machine import program
from task_server.policy import parse_hosts, place_of
from task_server.worker.indexes import Indexes
from tests.environments.small_index import SmallIndex, small_index

FILE = '<a href="{}/files/greet-1.0-py3-none-any.whl#sha256=00">greet-1.0-py3-none-any.whl</a>'


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        yield index


def indexes(index: SmallIndex, folder: Path, *more: tuple[str, int]) -> Indexes:
    return Indexes(program("uv"), index.environ(folder / "cache"), more=more)


def port_of(index: SmallIndex) -> int:
    return int(index.url.rpartition(":")[2])


async def test_the_index_of_uv_is_one_of_them_and_its_neighbours_are_not(
    index: SmallIndex, tmp_path: Path
) -> None:
    found = indexes(index, tmp_path)

    assert await found.have(("127.0.0.1", port_of(index)))
    assert not await found.have(("127.0.0.1", 1))
    assert not await found.have(("localhost", port_of(index)))


async def test_more_indexes_of_variables_and_the_private_one_are_among_them(
    index: SmallIndex, tmp_path: Path
) -> None:
    environ = index.environ(tmp_path / "cache")
    environ["UV_INDEX"] = "ours=https://me:secret@one.example:8443/simple"
    environ["UV_FIND_LINKS"] = "https://two.example/wheels.html"
    found = Indexes(program("uv"), environ, private="https://me:secret@three.example/simple")

    places = ("one.example", 8443), ("two.example", 443), ("three.example", 443)

    assert [await found.have(place) for place in places] == [True, True, True]


async def test_files_are_where_the_index_says_that_they_are(
    index: SmallIndex, tmp_path: Path
) -> None:
    pages = {"/simple/greet/": FILE.format("https://files.example")}
    pages["/simple/greet/"] += '<a href="https://else.example/about">about</a>'
    index.answer = lambda path: pages[path].encode() if path in pages else None  # type: ignore[method-assign]
    found = indexes(index, tmp_path)
    found.note(["greet"])

    assert await found.have(("files.example", 443))
    assert not await found.have(("else.example", 443))


async def test_no_page_is_asked_for_twice(index: SmallIndex, tmp_path: Path) -> None:
    found = indexes(index, tmp_path)
    found.note(["greet"])

    answers = [await found.have(("files.example", 443)) for _ in range(3)]

    assert answers == [False] * 3
    assert index.requests == 2  # greet, and what every index has


async def test_an_index_in_trouble_tells_nothing(index: SmallIndex, tmp_path: Path) -> None:
    index.status = 500
    found = indexes(index, tmp_path, ("files.example", 443))

    assert await found.have(("files.example", 443))
    assert not await found.have(("other.example", 443))


async def test_without_uv_only_what_was_named_is_known() -> None:
    found = Indexes("/nowhere/uv", {}, private="http://ours.example/simple")

    assert await found.have(("ours.example", 80))
    assert not await found.have(("files.example", 443))


def test_urls_lead_to_places() -> None:
    assert place_of("HTTPS://me:secret@One.Example./simple") == ("one.example", 443)
    assert place_of("http://[::1]:8080/") == ("::1", 8080)
    assert [place_of(url) for url in ("file:///srv", "https://x:70000", "https://", "")] == [
        *(None, None, None, None)
    ]


def test_hosts_are_named_with_commas() -> None:
    assert parse_hosts(" one.example, two.example:8443 ,") == {
        *(("one.example", 443), ("two.example", 8443))
    }
    assert parse_hosts("") == frozenset()


@pytest.mark.parametrize(
    "text", ["https://one.example", "one two", "one.example/x", "one:port", "@"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host; write NAME or NAME:PORT"):
        parse_hosts(text)
