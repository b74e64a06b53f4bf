"""A real server purges by itself, and what it purged stays gone over a kill."""

from __future__ import annotations

import pytest

from tests.e2e.processes import place, until
from tests.e2e.stranger_client import PlainClient, Refused

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def status_of(client: PlainClient, task: str) -> int:
    """What asking for a task comes to."""
    try:
        client.ask("GET", f"/v1/tasks/{task}")
    except Refused as refusal:
        return refusal.status
    return 200


def test_what_is_kept_for_no_time_goes_by_itself_and_stays_gone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with place(tmp_path_factory) as here:
        here.serve()
        worker = here.worker()
        owner = PlainClient(here.url, here.token("user", "owner"))
        other = PlainClient(here.url, here.token("user", "other"))
        body = {"function": "math:factorial", "args": [5]}
        kept = owner.ask("POST", "/v1/tasks?wait=60", body)["id"]
        passing = owner.ask("POST", "/v1/tasks?wait=60", {**body, "keep": 0})["id"]
        waited = owner.ask("POST", "/v1/tasks", {**body, "after": [passing]})["id"]
        assert owner.answer(waited) == 120

        until(lambda: status_of(owner, passing) == 410, 60, "purged by the server itself")
        assert (status_of(other, passing), status_of(owner, kept)) == (404, 200)
        assert here.server is not None
        here.server.kill()
        here.serve()

        assert (status_of(owner, passing), status_of(owner, kept)) == (410, 200)
        assert worker.is_alive()
        again = owner.ask("POST", "/v1/tasks?wait=60", body)
        assert again["answer"] == 120
