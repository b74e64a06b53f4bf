"""A package index in trouble: tasks wait for it, or fail and say why; others never notice."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from msgspec import Struct

from task_server.client.client import Client
from task_server.client.future import Future
from task_server.protocol.tasks import Error
from tests.e2e.faulty_proxy import NOTHING, Asked, Fault, FaultyProxy, faulty_proxy
from tests.e2e.processes import Place, Process, place, until
from tests.environments.small_index import SmallIndex, small_index, wheel

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

LONG = 60.0
Troubled = tuple[Process, list[Future[object]]]


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        for name in ("sound", "troubled"):
            index.add(name, "1.0", {f"{name}.py": f"def name(): return {name!r}\n"})
        yield index


@pytest.fixture
def proxy(index: SmallIndex) -> Iterator[FaultyProxy]:
    with faulty_proxy(index.url) as proxy:
        yield proxy


class Trouble(Struct, frozen=True):
    """What is wrong with the index."""

    fault: Fault = NOTHING
    status: int = 200
    content: bytes | None = None


TROUBLES = {
    "away": Trouble(Fault(loses_request=True)),
    "resets": Trouble(Fault(cut_after=0, by_reset=True)),
    "fails": Trouble(status=500),
    "hangs": Trouble(Fault(delay_seconds=LONG)),
    "breaks off": Trouble(Fault(cut_after=200)),
    "other content": Trouble(
        content=wheel("troubled", "1.0", {"troubled.py": "def name(): return 'not this'\n"}),
    ),
}


class Workshop:
    """A server and, once it is wanted, a worker, that have their packages from the index."""

    def __init__(self, here: Place, index: SmallIndex, proxy: FaultyProxy) -> None:
        self._here = here
        self._index = index
        self._proxy = proxy
        self._sound = dict(index.files)
        self.asked_in_trouble = 0

    def environ(self, name: str) -> dict[str, str]:
        """With a cache of its own, so that the worker has nothing from the server's."""
        environ = self._index.environ(self._here.folder / f"cache of {name}")
        there = {"UV_DEFAULT_INDEX": f"{self._proxy.url}/simple/", "UV_HTTP_TIMEOUT": "1"}
        return environ | there

    def begin(self, trouble: Trouble) -> None:
        """Something goes wrong with one of the packages."""

        def decide(asked: Asked) -> Fault:
            if "troubled" not in asked.path:
                return NOTHING
            self.asked_in_trouble += 1
            self._index.status = trouble.status
            return trouble.fault

        if trouble.content is not None:
            self._index.files = dict.fromkeys(self._sound, trouble.content)
        self._proxy.decide = decide

    def end(self) -> None:
        """All is well again."""
        self._proxy.decide = lambda asked: NOTHING
        self._index.status = 200
        self._index.files = self._sound

    def has_met_it(self) -> None:
        """Wait until the index was asked in its trouble."""
        until(lambda: self.asked_in_trouble, 20)


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory, "--lease-seconds", "2") as here:
        yield here


@pytest.fixture
def workshop(here: Place, index: SmallIndex, proxy: FaultyProxy) -> Workshop:
    workshop = Workshop(here, index, proxy)
    here.serve(environ=workshop.environ("server"))
    return workshop


@pytest.fixture
def client(here: Place, workshop: Workshop) -> Iterator[Client]:
    with here.client() as client:
        yield client


def name_of(client: Client, package: str) -> Future[object]:
    return client.submit(f"{package}:name", package=package)


def others_go_on(client: Client) -> None:
    """Tasks without packages, and those of an environment that is there."""
    begun = time.monotonic()
    assert client.call("math:sqrt", 16) == 4.0
    assert name_of(client, "sound").result(timeout=20) == "sound"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["away", "resets", "fails", "hangs", "breaks off"])
def test_an_index_in_trouble_while_versions_are_chosen_costs_only_time(
    here: Place, workshop: Workshop, client: Client, name: str
) -> None:
    here.worker(environ=workshop.environ("worker"))
    assert name_of(client, "sound").result(timeout=20) == "sound"
    workshop.begin(TROUBLES[name])
    future = name_of(client, "troubled")
    workshop.has_met_it()

    others_go_on(client)
    assert future.status().phase == "locking"
    workshop.end()

    assert future.result(timeout=30) == "troubled"
    assert future.status().attempt == 1


def locked(future: Future[object]) -> None:
    """Wait until it needs only a worker."""
    until(lambda: future.status().phase == "waiting", 20, "its versions are chosen")


@pytest.mark.parametrize("name", ["away", "resets", "hangs", "breaks off", "other content"])
def test_an_index_in_trouble_while_packages_are_fetched_is_asked_again(
    here: Place, workshop: Workshop, client: Client, name: str
) -> None:
    futures = [name_of(client, package) for package in ("sound", "troubled")]
    for each in futures:
        locked(each)
    workshop.begin(TROUBLES[name])
    here.worker(environ=workshop.environ("worker"))
    workshop.has_met_it()

    workshop.end()

    assert [each.result(timeout=30) for each in futures] == ["sound", "troubled"]
    assert [each.status().attempt for each in futures] == [1, 1]


def troubled(here: Place, workshop: Workshop, client: Client, name: str, tasks: int) -> Troubled:
    """Tasks whose packages are to be fetched now, by a worker whose others are there."""
    worker = here.worker(slots=2, environ=workshop.environ("worker"))
    assert name_of(client, "sound").result(timeout=20) == "sound"
    sleepers = [client.submit("time:sleep", LONG) for _ in range(2)]  # all slots are taken
    until(lambda: {each.status().state for each in sleepers} == {"running"})
    futures = [name_of(client, "troubled") for _ in range(tasks)]
    for each in futures:
        locked(each)
    workshop.begin(TROUBLES[name])
    for each in sleepers:
        each.cancel()
    workshop.has_met_it()
    return worker, futures


@pytest.mark.parametrize("name", ["away", "fails", "hangs"])
def test_tasks_outlive_an_index_that_stays_in_trouble_and_take_no_slot(
    here: Place, workshop: Workshop, client: Client, name: str
) -> None:
    worker, futures = troubled(here, workshop, client, name, 3)

    until(lambda: worker.output().count("is built again in") >= 4, 60, "it gave them back")
    others_go_on(client)
    assert {each.status().state for each in futures} <= {"queued", "running"}
    workshop.end()

    assert [each.result(timeout=30) for each in futures] == ["troubled"] * 3


def test_an_index_with_other_content_fails_the_tasks_that_need_it_and_says_why(
    here: Place, workshop: Workshop, client: Client
) -> None:
    worker, (future,) = troubled(here, workshop, client, "other content", 1)

    others_go_on(client)
    assert future.refresh(40)
    others_go_on(client)

    view = future.status()
    assert view.state == "failed" and isinstance(view.error, Error), view
    assert view.error.kind == "environment"
    assert "with another hash than the lock has" in view.error.message
    assert "Traceback" not in view.error.message and worker.is_alive()
    workshop.end()
    assert name_of(client, "troubled").result(timeout=30) == "troubled"
