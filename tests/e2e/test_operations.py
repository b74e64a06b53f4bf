"""What an operator does and meets: checks at the start, health, backup and restore, upgrade."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.protocol import ids
from tests.e2e.load import call
from tests.e2e.processes import COMMAND, Place, clean_environ, place, until
from tests.e2e.stranger_client import PlainClient, Refused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LIST = 10


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory, "--lease-seconds", "5") as here:
        here.choose_port()
        yield here


def command(here: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `task-server` with the place's data."""
    return subprocess.run(
        [*COMMAND, *arguments, "--data", str(here.data)],
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def start_in_vain(here: Place, data: Path | None = None) -> str:
    """Start a server that cannot work: it ends by itself; what it says."""
    options = ["serve", "--port", "0", "--data", str(data or here.data), "--ballast-bytes", "0"]
    process = here.run([*COMMAND, *options], "vain", {})
    assert process.popen.wait(timeout=30) == 1, process.output()
    output = process.output()
    assert "Traceback" not in output and "ready on" not in output, output
    return output


def database(here: Place) -> Path:
    return here.data / "task-server.db"


def user(here: Place, name: str = "somebody") -> PlainClient:
    return PlainClient(here.url, here.token("user", name))


# ---- at the start


def test_a_second_server_on_the_same_file_says_so_and_ends(here: Place) -> None:
    here.serve()
    here.worker()

    said = start_in_vain(here)

    assert f"another server works on {database(here)}" in said
    assert user(here).call("math:sqrt", 16) == 4.0


@pytest.mark.parametrize("damage", ["no database", "truncated", "flipped"])
def test_a_damaged_file_is_refused_with_what_to_do(here: Place, damage: str) -> None:
    server = here.serve()
    client = user(here)
    client.ask("POST", "/v1/tasks", [{"function": "math:sqrt", "args": [n]} for n in range(2000)])
    assert server.stop() == 0
    content = bytearray(database(here).read_bytes())
    if damage == "no database":
        content[:] = b"not this" * 1000
    elif damage == "truncated":
        del content[len(content) // 2 :]
    else:
        page = next(n for n in range(60, 200) if content[n * 4096] == 13)  # of rows
        content[page * 4096] ^= 4
    database(here).write_bytes(content)

    said = start_in_vain(here)

    assert str(database(here)) in said and "db check" in said and "backup" in said
    checked = command(here, "db", "check")
    assert checked.returncode != 0 and "Traceback" not in checked.stderr
    assert database(here).read_bytes() == content, "nothing was changed"


def test_a_database_of_a_newer_version_is_refused(here: Place) -> None:
    here.serve().stop()
    connection = sqlite3.connect(database(here))
    connection.execute("PRAGMA user_version = 77")
    connection.close()

    said = start_in_vain(here)

    assert "newer version" in said and "77" in said
    upgraded = command(here, "db", "upgrade")
    assert upgraded.returncode == 2 and "newer version" in upgraded.stderr


# ---- upgrade and check


def test_upgrade_says_what_it_did_and_not_beside_a_server(here: Place) -> None:
    made, again = command(here, "db", "upgrade"), command(here, "db", "upgrade")

    assert made.returncode == again.returncode == 0
    assert made.stdout.startswith("new database of version ")
    assert again.stdout.endswith("nothing to do\n")
    here.serve()
    refused = command(here, "db", "upgrade")
    assert refused.returncode == 2 and "another server works on" in refused.stderr


def test_check_passes_beside_a_server_at_work_and_finds_what_is_wrong(here: Place) -> None:
    server = here.serve()
    here.worker()
    with Load(here) as load:
        until(lambda: len(load.expected) >= 100)
        checked = command(here, "db", "check")
    assert (checked.returncode, checked.stdout) == (0, ""), checked
    load.wait()
    assert server.stop() == 0
    assert command(here, "db", "check").returncode == 0

    connection = sqlite3.connect(database(here))
    connection.execute("UPDATE tasks SET n = NULL WHERE n <= 2")
    connection.commit()
    connection.close()

    checked, as_json = command(here, "db", "check"), command(here, "db", "check", "-o", "json")
    assert checked.returncode == as_json.returncode == 1
    (line,) = checked.stdout.splitlines()
    (found,) = json.loads(as_json.stdout)
    assert found["count"] == 2 and found["example"] in load.expected
    assert line == f"{found['what']}: 2, for example {found['example']}"


# ---- health


def health(here: Place) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(here.url + "/readyz", timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_readyz_tells_how_database_disk_and_memory_are(here: Place) -> None:
    here.serve()

    status, told = health(here)

    assert status == 200 and told["ready"] is told["intake"] is True
    assert told["database"]["kind"] == "sqlite" and told["database"]["writable"] is True
    assert told["database"]["version"] == told["database"]["newest"] >= 1
    assert told["disk"]["free_bytes"] > 0 and told["disk"]["is_short"] is False
    assert 0 < told["memory"]["used_bytes"] < told["memory"]["limit_bytes"]
    with urllib.request.urlopen(here.url + "/livez", timeout=10) as reply:
        assert json.loads(reply.read()) == {"live": True}


def test_readyz_is_503_while_the_database_does_not_answer(here: Place) -> None:
    here.serve()
    blocker = sqlite3.connect(database(here), isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    status, told = health(here)

    assert status == 503 and told["ready"] is told["intake"] is False
    assert told["database"]["writable"] is False
    blocker.execute("ROLLBACK")
    blocker.close()
    until(lambda: health(here)[0] == 200)


def test_a_server_short_of_memory_takes_no_tasks_and_answers_all_the_same(here: Place) -> None:
    here._options = (*here._options, "--memory-bytes", str(2**20))
    here.serve()
    client = user(here)

    with pytest.raises(Refused) as caught:
        client.submit("math:sqrt", 4)

    assert caught.value.status == 503 and "memory" in str(caught.value.reply)
    status, told = health(here)
    assert status == 200 and told["intake"] is False and told["memory"]["is_short"] is True
    assert client.ask("GET", "/v1/tasks")["tasks"] == []


# ---- backup and restore


class Load:
    """A user who submits lists of tasks, each until it is acknowledged or the server is gone."""

    def __init__(self, here: Place) -> None:
        self.client = user(here, "loader")
        self.expected: dict[str, object] = {}
        """Acknowledged tasks and what they come to."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._submit, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30)

    def _submit(self) -> None:
        number = 1
        while not self._is_over.is_set():
            calls = [call(number + n) for n in range(LIST)]
            number += LIST
            made = [ids.to_text(each) for each in ids.new_ids(LIST)]
            items = [{"id": task, **fields} for task, (fields, _) in zip(made, calls, strict=True)]
            try:
                self.client.ask("POST", "/v1/tasks", items)
            except (OSError, Refused):
                continue
            self.expected.update(
                {task: answer for task, (_, answer) in zip(made, calls, strict=True)}
            )
            time.sleep(0.02)

    def wait(self) -> None:
        """Every acknowledged task has its answer."""
        for task, answer in self.expected.items():
            assert self.client.answer(task, wait=60) == answer


def put_in_place(here: Place, saved: Path) -> None:
    """Restore a backup, as the manual says."""
    for name in ("task-server.db", "task-server.db-wal", "task-server.db-shm"):
        (here.data / name).unlink(missing_ok=True)
    shutil.copy(saved, database(here))


def test_a_backup_under_load_restored_after_a_kill_has_all_that_came_before_it(
    here: Place,
) -> None:
    server = here.serve()
    worker = here.worker()
    saved = here.folder / "kept" / "backup.db"
    with Load(here) as load:
        until(lambda: len(load.expected) >= 150)
        before = dict(load.expected)
        ended = {task: answer for task, answer in before.items() if is_answered(load.client, task)}
        made = command(here, "db", "backup", str(saved), "-o", "json")
        assert made.returncode == 0, made.stderr
        until(lambda: len(load.expected) >= len(before) + 100)
        server.kill()
    assert json.loads(made.stdout)["tasks"] >= len(before)
    assert ended, "something had its answer before the backup"

    put_in_place(here, saved)
    server = here.serve()

    assert "this database is a backup" in server.output()
    for task, answer in before.items():
        assert load.client.answer(task, wait=60) == answer
    later = {task: answer for task, answer in load.expected.items() if task not in before}
    absent = 0
    for task, answer in later.items():
        try:
            assert load.client.answer(task, wait=60) == answer
        except Refused as refused:
            assert refused.status == 404
            absent += 1
    assert absent, "what came after the backup is not in it"
    assert worker.is_alive() and user(here).call("math:sqrt", 16) == 4.0
    assert server.stop() == 0
    checked = command(here, "db", "check")
    assert checked.returncode == 0, checked.stdout
    for process in (server, worker):
        assert "Traceback" not in process.output(), process.output()


def is_answered(client: PlainClient, task: str) -> bool:
    return bool(client.ask("GET", f"/user/request_answer/{task}")["sucsess"])


def slow(here: Place, client: PlainClient, name: str, **fields: object) -> str:
    """Submit a task that notes each start in a file of that name, and ends when a gate opens."""
    code = (
        # Another runner, of another user, may start it again: a lease can be lost on the way.
        f"[__import__('os').umask(0), open({str(here.shared / name)!r}, 'a').write('x'),"
        f" *(__import__('time').sleep(0.05) for _ in iter(lambda:"
        f" __import__('os').path.exists({str(here.shared / 'gate')!r}), True)), {name!r}][-1]"
    )
    return client.submit("eval", code, **fields)


def starts(here: Place, name: str) -> int:
    path = here.shared / name
    return len(path.read_text()) if path.exists() else 0


def test_a_worker_that_goes_on_across_a_restore_harms_nothing(here: Place) -> None:
    """It holds a lease from before the backup and one from after; others get the numbers."""
    server = here.serve()
    worker = here.worker(slots=2)
    client = user(here)
    early = slow(here, client, "early")
    until(lambda: starts(here, "early") == 1)
    saved = here.folder / "backup.db"
    assert command(here, "db", "backup", str(saved)).returncode == 0
    late = slow(here, client, "late")
    until(lambda: starts(here, "late") == 1)

    server.kill()
    put_in_place(here, saved)
    here.serve()
    others = [client.submit("operator:add", f"other {n}", "") for n in range(5)]
    (here.shared / "gate").touch()

    assert client.answer(early, wait=60) == "early"
    assert [client.answer(task, wait=60) for task in others] == [f"other {n}" for n in range(5)]
    with pytest.raises(Refused, match="404"):
        client.answer(late)
    assert worker.is_alive() and "Traceback" not in worker.output()


def test_a_task_that_may_start_only_once_does_not_start_again_after_a_restore(
    here: Place,
) -> None:
    server = here.serve()
    client = user(here)
    body = {"function": "open", "args": [str(here.shared / "never"), "w"], "at_most_once": True}
    (task,) = client.ask("POST", "/v1/tasks", [body])["ids"]
    saved = here.folder / "backup.db"
    assert command(here, "db", "backup", str(saved)).returncode == 0

    server.kill()
    put_in_place(here, saved)
    here.serve()
    here.worker()
    assert client.call("math:sqrt", 16) == 4.0

    view = client.ask("GET", f"/v1/tasks/{task}")
    assert view["state"] == "failed" and view["error"]["kind"] == "lost"
    assert "restored from a backup" in view["error"]["message"]
    assert not (here.shared / "never").exists()


def test_large_payloads_can_be_backed_up_too(here: Place) -> None:
    server = here.serve()
    client = user(here)
    task = client.submit("len", "x" * 100_000)
    kept = here.folder / "kept"

    without = command(here, "db", "backup", str(kept / "a.db"))
    made = command(here, "db", "backup", str(kept / "b.db"), "--with-blobs")

    assert without.returncode == made.returncode == 0
    assert "--with-blobs" in without.stderr and made.stderr == ""
    server.kill()
    shutil.rmtree(here.data)
    here.data.mkdir()
    shutil.copy(kept / "b.db", database(here))
    shutil.copytree(kept / "blobs", here.data / "blobs")
    here.serve()
    here.worker()
    assert client.answer(task, wait=60) == 100_000
    assert command(here, "db", "check").returncode == 0


def test_a_backup_beside_the_log_of_what_it_replaces_is_refused(here: Place) -> None:
    server = here.serve()
    client = user(here)
    client.submit("math:sqrt", 4)
    saved = here.folder / "backup.db"
    assert command(here, "db", "backup", str(saved)).returncode == 0
    server.kill()
    shutil.copy(saved, database(here))

    said = start_in_vain(here)

    assert "task-server.db-wal" in said
    (here.data / "task-server.db-wal").unlink()
    (here.data / "task-server.db-shm").unlink()
    here.serve()


def test_a_backup_that_cannot_be_made_says_why(here: Place) -> None:
    nothing = command(here, "db", "backup", str(here.folder / "a.db"))
    assert nothing.returncode == 2 and "there is no database" in nothing.stderr
    here.serve()
    (here.folder / "there.db").touch()

    exists = command(here, "db", "backup", str(here.folder / "there.db"))
    nowhere = command(here, "db", "backup", "/proc/backup.db")

    for failed, why in ((exists, "exists already"), (nowhere, "cannot write /proc/backup.db")):
        assert failed.returncode == 2 and why in failed.stderr, failed.stderr
        assert failed.stdout == "" and len(failed.stderr.splitlines()) == 1


def test_the_file_of_a_backup_is_its_owners_alone(here: Place) -> None:
    here.serve()
    saved = here.folder / "backup.db"
    previous = os.umask(0)
    try:
        assert command(here, "db", "backup", str(saved)).returncode == 0
    finally:
        os.umask(previous)

    assert saved.stat().st_mode & 0o077 == 0
