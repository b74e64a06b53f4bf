"""A server that is killed, at any moment and at the worst, keeps what it acknowledged.

TASK_SERVER_KILL_ROUNDS sets how many rounds of kills there are on each store.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import to_builtins

from task_server.protocol import ids
from task_server.store.opening import is_postgres
from tests.e2e.kills import KILLED, Killed, findings, kill_and_restart
from tests.e2e.load import load_on
from tests.e2e.processes import figures, until
from tests.e2e.watched import DATABASES, WatchedPlace, database_for, ends, watched_place
from tests.e2e.wire import Connection

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

KILLS = 5
"""Of each round."""
ROUNDS_OF_EACH = range(int(os.environ.get("TASK_SERVER_KILL_ROUNDS", "5")))
ROUNDS = [
    *(("sqlite", number) for number in ROUNDS_OF_EACH),
    *(pytest.param("postgres", each, marks=pytest.mark.postgres) for each in ROUNDS_OF_EACH),
]
LEASE_SECONDS = 5
SEED = int(os.environ.get("TASK_SERVER_SEED", secrets.randbelow(2**32)))
RESTART_SECONDS = 20.0
"""On a machine that others use too; see the soak for what it takes alone."""


@pytest.fixture(params=DATABASES)
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedPlace]:
    options = ("--lease-seconds", str(LEASE_SECONDS))
    with watched_place(tmp_path_factory, *options, database=database_for(request)) as here:
        yield here


# ---- at any moment


@pytest.mark.parametrize(("here", "number"), ROUNDS, indirect=["here"])
def test_a_server_killed_under_load_loses_and_changes_nothing(
    here: WatchedPlace, number: int, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(f"{SEED} {number}")
    figures("TASK_SERVER_SEED=%d", SEED)
    here.serve()
    workers = [here.worker("one"), here.worker("another", slots=1)]

    with load_on(here) as load:
        seconds = [kill_and_restart(here, chance) for _ in range(KILLS)]
        begun = time.monotonic()
        outcome = load.finish()
    figures("%s, answered %.1f s later", outcome, time.monotonic() - begun)
    store = "postgres" if is_postgres(here.database) else "sqlite"
    record_property(KILLED, to_builtins(Killed(store, seconds, outcome)))

    assert max(seconds) < RESTART_SECONDS
    assert outcome.faults == outcome.given_up == []
    assert outcome.acknowledged > 10 * KILLS
    assert all(worker.is_alive() for worker in workers)
    assert here.server is not None and here.server.stop() == 0
    assert findings(here) == []


def test_a_lost_task_and_a_changed_answer_are_found_out(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with watched_place(tmp_path_factory) as here:
        server = here.serve()
        here.worker()
        with load_on(here) as load:
            answers = load.owners[0].answers
            until(lambda: len(answers) >= 10)
            server.kill()
            lost, changed = (task for task, _ in zip(answers, range(2), strict=False))
            spoil(here, lost, changed)
            here.serve()
            outcome = load.finish()

    assert [each.split()[-1] for each in outcome.lost] == [lost]
    assert {lost, changed} == {each.split(":")[0].split()[-1] for each in outcome.changed}
    assert outcome.partial == outcome.surplus == []


def spoil(here: WatchedPlace, lost: str, changed: str) -> None:
    """Do to the database what must not happen."""
    with closing(sqlite3.connect(here.database.removeprefix("sqlite:///"))) as connection:
        connection.execute("DELETE FROM tasks WHERE id = ?", (ids.from_text(lost),))
        wrong = (b'"another answer"', ids.from_text(changed))
        connection.execute("UPDATE tasks SET outcome = ? WHERE id = ?", wrong)
        connection.commit()


# ---- between a commit and its reply


def body_of(task: str) -> bytes:
    return json.dumps({"id": task, "function": "math:sqrt", "args": [4]}).encode()


def restarted_after(here: WatchedPlace, connections: list[Connection]) -> None:
    """The server has killed itself; start it again, whole."""
    assert here.server is not None
    assert ends(here.server) == -9
    here.mend_server()
    here.serve()
    for connection in connections:
        connection.close()


def test_a_submit_repeated_after_a_kill_finds_its_task(here: WatchedPlace) -> None:
    here.break_server("submit:3")
    here.serve()
    connection = here.connection(here.token("user"))
    made = [ids.to_text(each) for each in ids.new_ids(3)]
    for task in made[:2]:
        assert connection.ask("POST", "/v1/tasks", body_of(task)).told["duplicate"] is False

    with pytest.raises(OSError):
        connection.ask("POST", "/v1/tasks", body_of(made[2]))

    restarted_after(here, [connection])
    told = connection.ask("POST", "/v1/tasks", body_of(made[2])).told
    assert (told["id"], told["duplicate"]) == (made[2], True)
    assert listed(connection) == made


def listed(connection: Connection) -> list[str]:
    tasks = connection.ask("GET", "/v1/tasks").told["tasks"]
    return [view["id"] for view in reversed(tasks)]


def test_a_submit_with_a_key_repeated_after_a_kill_finds_its_task(here: WatchedPlace) -> None:
    here.break_server("submit:1")
    here.serve()
    connection = here.connection(here.token("user"))
    request = ("POST", "/user/submit_task", b'{"function": "len", "args": ["x"]}')
    key = {"Idempotency-Key": "k"}

    with pytest.raises(OSError):
        connection.ask(*request, key)

    restarted_after(here, [connection])
    (task,) = listed(connection)
    told = connection.ask(*request, key).told
    assert (told["id"], told["duplicate"]) == (task, True)


def test_a_list_without_ids_is_there_as_a_whole_after_a_kill(here: WatchedPlace) -> None:
    here.break_server("submit:1")
    here.serve()
    connection = here.connection(here.token("user"))
    item = b'{"function": "abs", "args": [1]}'

    with pytest.raises(OSError):
        connection.ask("POST", "/v1/tasks", b"[%s]" % b",".join([item] * 50))

    restarted_after(here, [connection])
    assert len(listed(connection)) == 50


def leaves_a_line(path: str) -> str:
    """Leaves a line for each time that it runs."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    return "done"


@pytest.mark.parametrize("fault", ["answer:1", "lease:1"])
def test_a_worker_whose_reply_was_lost_in_a_kill_repeats_itself(
    here: WatchedPlace, fault: str
) -> None:
    here.break_server(fault)
    here.serve()
    runs = here.sign("runs")
    with here.client("somebody") as client:
        task = client.submit(leaves_a_line, str(runs)).id

    worker = here.worker(waits=False)

    restarted_after(here, [])
    connection = here.connection(here.token("user", "somebody"))
    view = connection.ask("GET", f"/v1/tasks/{task}?wait=30").told
    assert (view["state"], view["attempt"]) == ("succeeded", 1)
    assert runs.read_text() == "ran\n"
    assert worker.is_alive()


def test_a_plain_answer_repeated_after_a_kill_is_taken_once(here: WatchedPlace) -> None:
    here.break_server("plain_answer:1")
    here.serve()
    user, worker = here.connection(here.token("user")), here.connection(here.token("worker"))
    task = ids.to_text(ids.new_id())
    user.ask("POST", "/v1/tasks", body_of(task))
    assert worker.ask("GET", "/worker/request_task").told["id"] == task
    answers = [json.dumps({"id": task, "answer": value}).encode() for value in (2.0, 3.0)]

    with pytest.raises(OSError):
        worker.ask("POST", "/worker/submit_answer", answers[0])

    restarted_after(here, [user, worker])
    statuses = [worker.ask("POST", "/worker/submit_answer", each).status for each in answers]
    assert statuses == [200, 409]
    assert user.ask("GET", f"/v1/tasks/{task}/answer").body == b"2.0"


def test_a_cancel_during_a_kill_is_final_or_absent(here: WatchedPlace) -> None:
    here.serve()
    user = here.connection(here.token("user"))
    made = [ids.to_text(each) for each in ids.new_ids(20)]
    items = b"[%s]" % b",".join(map(body_of, made))
    assert user.ask("POST", "/v1/tasks", items).status == 202
    assert here.server is not None

    told = []
    for number, task in enumerate(made):
        if number == 10:
            user.send(user.request("POST", f"/v1/tasks/{task}/cancel", b"{}"))
            here.server.kill()
            break
        told.append(user.ask("POST", f"/v1/tasks/{task}/cancel", b"{}").status)

    user.close()
    here.serve()
    states = [user.ask("GET", f"/v1/tasks/{task}").told["state"] for task in made]
    assert told == [200] * 10 and states[:10] == ["cancelled"] * 10
    assert states[10] in ("queued", "cancelled") and states[11:] == ["queued"] * 9
    until(lambda: user.ask("POST", f"/v1/tasks/{made[10]}/cancel", b"{}").status == 200)
