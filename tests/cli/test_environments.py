from __future__ import annotations

import json
from typing import Any

import pytest

from task_server.cli import environments
from task_server.cli.application import run
from task_server.client.client import Client
from task_server.client.requests import Request
from tests.client.scripted import ScriptedTransport, reply

Out = pytest.CaptureFixture[str]
DIGEST = "a" * 64


class Server:
    """Locks at once; then its workers are in these states, one look after the other."""

    def __init__(
        self, *looks: list[dict[str, Any]], error: str | None = None, is_away: bool = False
    ) -> None:
        self.looks = list(looks)
        self.transport = ScriptedTransport(self.handle)
        self._error = error
        self._is_away = is_away

    def handle(self, request: Request) -> Any:
        if request.method == "POST":
            is_locked = not self._error and not self._is_away
            locked = {"environment": DIGEST if is_locked else None, "error": self._error}
            if self._is_away:
                locked["waits_for"] = "the package index could not be reached"
                self._is_away = False
            return reply(202, {**locked, "state": "preparing", "workers": self.looks[0]})
        workers = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return reply(200, {"environment": DIGEST, "workers": workers, "lock": "x"})


def worker(name: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "name": name, "state": state, "ordered": True, **fields}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_server.client.environments.PAUSE_SECONDS", 0.0)


def use(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(environments, "Client", lambda: Client(transport=server.transport))


def test_prepare_tells_each_workers_progress_until_all_are_done(
    monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    server = Server(
        [worker("one", "building"), worker("two", "waiting")],
        [worker("one", "ready"), worker("two", "building")],
        [worker("one", "ready"), worker("two", "ready")],
    )
    use(monkeypatch, server)

    arguments = ["numpy", "pandas>=2", "-m", "numpy.linalg", "--label", "rack=b", "--keep", "60"]
    status = run(["env", "prepare", *arguments])

    printed = capsys.readouterr()
    assert status == 0
    assert printed.err.splitlines() == [
        "one: building",
        "two: waiting",
        "one: ready",
        "two: building",
        "two: ready",
    ]
    assert printed.out.splitlines()[-1] == DIGEST
    (body,) = server.transport.bodies("POST", "/v1/environments")
    assert body == {
        "package": ["numpy", "pandas>=2"],
        "modules": ["numpy.linalg"],
        "labels": {"rack": "b"},
        "keep": 60.0,
    }


def test_prepare_exits_with_1_and_the_log_where_it_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    use(monkeypatch, Server([worker("one", "ready"), worker("two", "failed", log="no libfoo")]))

    status = run(["env", "prepare", "greet", "-o", "json"])

    printed = capsys.readouterr()
    assert status == 1
    assert "two: no libfoo" in printed.err
    assert json.loads(printed.out)["problem"] == "two: no libfoo"


def test_what_cannot_be_locked_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    error = "'absent' was not found in the package index"
    use(monkeypatch, Server([worker("one", "waiting")], error=error))

    assert run(["env", "prepare", "absent"]) == 1
    printed = capsys.readouterr()
    assert printed.err == f"{error}\n"
    assert printed.out == ""


def test_a_worker_that_another_order_means_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    other = worker("other", "failed", log="no libfoo")
    use(monkeypatch, Server([worker("one", "building")], [worker("one", "ready"), other]))

    status = run(["env", "prepare", "numpy", "--label", "rack=b"])

    printed = capsys.readouterr()
    assert status == 0 and "other" not in printed.out + printed.err


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Server([worker("one", "building")]))

    assert run(["env", "prepare", "greet", "--wait", "0.01"]) == 124
    assert run(["env", "prepare", "greet", "--wait", "0"]) == 0


def test_without_workers_it_says_who_will_build(
    monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    use(monkeypatch, Server([]))

    assert run(["env", "prepare", "greet"]) == 0
    assert "those that join" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["greet", "--label", "rack"]])
def test_wrong_usage_of_prepare_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    use(monkeypatch, Server([]))

    assert run(["env", "prepare", *arguments]) == 2


def test_gc_takes_back_wishes_and_tells_what_went(
    monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    transport = ScriptedTransport(
        lambda request: reply(202, {"workers": [worker("one", "ready", log="removed 2")]})
    )
    monkeypatch.setattr(environments, "Client", lambda: Client(transport=transport))

    assert run(["env", "gc", DIGEST]) == 0

    assert transport.bodies("POST", "/v1/environments/collect") == [{"environments": [DIGEST]}]
    assert "removed 2" in capsys.readouterr().out


def test_ls_shows_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    row = {"environment": DIGEST, "requirements": [["numpy", "pandas"]], "ready": 1, "workers": 2}
    transport = ScriptedTransport(lambda request: reply(200, {"environments": [row]}))
    monkeypatch.setattr(environments, "Client", lambda: Client(transport=transport))

    assert run(["env", "ls"]) == 0

    assert "numpy pandas" in capsys.readouterr().out


def test_prepare_says_what_holds_up_the_lock(monkeypatch: pytest.MonkeyPatch, capsys: Out) -> None:
    server = Server([worker("one", "ready")], is_away=True)
    use(monkeypatch, server)

    assert run(["env", "prepare", "greet"]) == 0

    assert capsys.readouterr().err.splitlines() == [
        "waits: the package index could not be reached",
        "one: ready",
    ]
    assert len(server.transport.bodies("POST", "/v1/environments")) == 2
